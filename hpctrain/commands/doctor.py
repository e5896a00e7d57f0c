"""`hpctrain doctor`: is this cluster as its preset says, and does a job of two ranks run on it?"""

from __future__ import annotations

import dataclasses
import json
import shutil

from hpctrain.commands.flags import Parser
from hpctrain.launch.doctor.examine import examine, preset_path
from hpctrain.launch.doctor.findings import Finding

ABOUT = """Is this cluster as its preset says, and does a job of two ranks run on it?

Takes settings as submit does; looks at Slurm, at the run folder and at Horovod, and submits one short job of two
ranks on two nodes (one, if there is one) that looks from there. Prints one line per finding: ok, or what is wrong
and what to do. Exit code 0 if all is ok, 1 if something is wrong. Without cluster=NAME it looks at the cluster
that it is on.
"""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    args = _parser().take(argv)
    from hpctrain.data.derive import load

    words = args.words
    if not any(word.startswith("cluster=") for word in words) and shutil.which("sinfo"):
        words = ["cluster=local", "cluster.kind=slurm", "cluster.name=this-cluster", *words]
    config = load(words)
    target = None if args.write is None else preset_path(args.write)
    findings = []
    for finding in examine(config, with_job=not args.no_job, write_to=target):
        findings.append(finding)
        if not args.json:
            print(shown(finding), flush=True)
    if args.json:
        print(json.dumps([dataclasses.asdict(f) | {"ok": f.ok} for f in findings]))
    return 0 if all(f.ok for f in findings) else 1


def shown(finding: Finding) -> str:
    """Returns the finding as a line, and its advice as another."""
    advice = f"\n       {finding.advice}" if finding.advice else ""
    return f"{'ok' if finding.ok else 'WRONG':5}  {finding.what:14}  {finding.text}{advice}"


def _parser() -> Parser:
    parser = Parser("doctor", ABOUT, "[cluster=NAME] [SETTINGS]")
    parser.add_argument("--no-job", action="store_true", help="submit no job")
    parser.add_json()
    parser.add_argument("--write", metavar="NAME", help="write what it found as conf/cluster/NAME.yaml")
    parser.add_run_place(as_settings=True)
    return parser
