"""What is shown of others' texts: no control characters, and *** for what is secret."""

import pytest

from hpctrain.shown import printable, shown, without_secrets

SECRETS = {
    "aws": "AKIA" + 16 * "Q",
    "github": "ghp_" + 36 * "q",
    "github_pat": "github_pat_" + 22 * "q",
    "gitlab": "glpat-" + 20 * "q",
    "slack": "xoxb-1234567890-canary",
    "hook": "https://hooks.slack.com/services/T0/B0/canary",
    "hugging_face": "hf_" + 30 * "q",
    "openai": "sk-" + 20 * "q",
    "nvidia": "nvapi-" + 40 * "q",
    "google": "AIza" + 35 * "q",
    "docker": "dckr_pat_" + 27 * "q",
    "web_token": "eyJhbGciOiJIUz.eyJzdWIiOiIx.SflKxwRJSMeKKF2QT4",
    "key": "-----BEGIN RSA PRIVATE KEY-----\ncanary\n-----END RSA PRIVATE KEY-----",
    "header": "Authorization: Bearer canary123",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_every_shape_is_hidden_in_a_text(secret):
    hidden = without_secrets(f"before {secret} after")
    assert secret not in hidden
    assert "canary" not in hidden
    assert hidden.startswith("before ")
    assert hidden.endswith("*** after")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://me:word@host/x", "https://***@host/x"),
        ("X_TOKEN=word more", "X_TOKEN=*** more"),
        ("api_key: 'two words' more", "api_key: *** more"),
        ('{"password": "two words"}', '{"password": ***}'),
        ("MY_PASS=word DB_PWD=word", "MY_PASS=*** DB_PWD=***"),
        ("AZURE_STORAGE_KEY=word==", "AZURE_STORAGE_KEY=***"),
        ("auth=bearer word", "auth=bearer ***"),
        ("a_secret=word b_credential=word", "a_secret=*** b_credential=***"),
        ("-----BEGIN PRIVATE KEY----- cut off", "***"),
        ("/a/token=word /a/token:word", "/a/token=*** /a/token:***"),
    ],
)
def test_what_is_named_a_secret_is_hidden_and_its_name_is_not(text, hidden):
    assert without_secrets(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "data.tokens=word", "max_token_length: 5", "tokens/s: 7", "https://host/x", "--mpi=pmix", "seed=1",
        "X_TOKEN=${MY_TOKEN}", "forward_pass=5", "bypass: 5", "OLDPWD=/x", "sort_key=5", 'X_TOKEN="$MY_TOKEN"', "",
        "data.path=/etc/passwd: is not a folder", "/a/b/.api_key: no such file",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert shown(text) == text


def test_control_characters_are_shown_as_text():
    assert printable("a\x1b[31mb\x07\u202e\udcff\n\tc\r") == "a\\x1b[31mb\\x07\\u202e\\udcff\n\tc\\r"
    assert shown("a\x1b token=word") == "a\\x1b token=***"


@pytest.mark.parametrize(
    ("word", "said"),
    [("x", None), ("eyJhbGciOiJIUzI-", None), ("a-token-", None), ("://", None), ("sk-", "***"),
     ("authorization:", "authorization:***")],
)  # fmt: skip
def test_a_line_of_a_million_letters_has_an_answer(word, said):
    """A pattern that is tried from every letter to the end takes hours; pytest's timeout ends it."""
    line = word * (10**6 // len(word))
    assert shown(line) == (said or line)
