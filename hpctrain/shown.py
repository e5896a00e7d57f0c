"""What may be shown and written of a text that others made: neither control characters nor secrets.

Takes and returns text. Every line of an error, every command line that is kept and every cell of a table passes here.
Pure, standard library only.
"""

from __future__ import annotations

import re

# What moves a terminal's cursor, changes its colours or its direction of writing, and bytes that are not UTF-8.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# Names whose value is a secret. `tokens` and `max_token_length` are settings of networks. Each pattern begins at the
# start of a word, so that a line of a million letters takes no longer than a million lines. In /etc/passwd: the name is
# a path's last part, which a sentence follows.
_NAMES = (
    r"(?:token|secret|passw(?:or)?d|passphrase|credentials?|auth|(?-i:[A-Z]_(?:PASS|PWD))"
    r"|(?:api|access|private|account|storage|encryption|signing)_?key)"
)
_NAMED = re.compile(
    rf"(?i)((?<![\w.-])(?!(?<=/)[\w.-]*:\s)[\w.-]*{_NAMES}(?:_?id|_?key)?[\"']?\s*[=:]\s*(?:(?:bearer|basic)\s+)?)"
    r"(?!\*\*\*|[\"']?\$)(\"[^\"]*\"|'[^']*'|[^\s\"']+)"
)
# Shapes of secrets, whatever their names, after the rules of detect-secrets and gitleaks: each with its secret part.
_SHAPES = [
    re.compile(pattern)
    for pattern in (
        r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b",  # AWS
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
        r"\bglpat-[A-Za-z0-9_-]{20,}",
        r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
        r"https://hooks\.slack\.com/services/[A-Za-z0-9/+]+",
        r"\bhf_[A-Za-z0-9]{30,}",  # Hugging Face
        r"\bsk-[A-Za-z0-9_-]{20,}",
        r"\b(?:nvapi|pypi)-[A-Za-z0-9_-]{20,}",
        r"\b(?:npm_|dckr_pat_|AIza)[A-Za-z0-9_-]{27,}",  # npm, Docker Hub, Google
        r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",  # JSON web tokens
        r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)",  # https://user:password@host
        r"(?i)(?<=authorization:)\s*(?:bearer\s+|basic\s+|token\s+)?[^\s\"']+",
    )
]  # fmt: skip


def printable(text: str) -> str:
    r"""Returns `text` with each control character as text, such as \x1b; line breaks and tabs stay."""
    return CONTROL.sub(lambda match: match[0] if match[0] in "\n\t" else ascii(match[0])[1:-1], text)


def without_secrets(text: str) -> str:
    """Returns `text` with *** for what the names (NAME_TOKEN=...) or the shapes of secrets mark as secret."""
    for shape in _SHAPES:
        text = shape.sub("***", text)
    return _NAMED.sub(r"\1***", text)


def shown(text: str) -> str:
    """Returns `text` as it may be shown: printable, without secrets."""
    return printable(without_secrets(text))
