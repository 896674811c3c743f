"""The verbs that look at runs."""

from __future__ import annotations

from codex_ray.config.verb import Verb

RUNS_VERBS = (
    Verb(
        name="runs list",
        settings="codex_ray.config.runs:ListRuns",
        function="codex_ray.runs.look:list_verb",
        path="runs",
        summary="list runs: running, completed, stopped or failed, step, loss, tokens/s, age",
        teaches=(
            "Reads every run folder of a folder. A run is running while its driver holds the folder or its "
            "workers' pulses beat; how an earlier one ended is written in its folder."
        ),
        examples=(
            ("runs list", "the runs in runs/"),
            ("runs list /shared/runs", "those in a folder that other machines write to"),
            ("runs list runs=quickstart", "the run of a quickstart"),
        ),
    ),
    Verb(
        name="runs show",
        settings="codex_ray.config.runs:ShowRun",
        function="codex_ray.runs.look:show_verb",
        path="run",
        summary="show how a run stands: figures, checkpoints, nodes, errors",
        teaches=(
            "Prints a run's state, the figures of its newest step and validation, its checkpoints, the "
            "ranks and nodes of its newest start, their load, and the error that came first."
        ),
        examples=(
            ("runs show first", "the run runs/first"),
            ("runs show /shared/runs/first", "a run by its folder"),
            ("runs show first runs=elsewhere", "the run elsewhere/first"),
        ),
    ),
    Verb(
        name="runs attach",
        settings="codex_ray.config.runs:AttachRun",
        function="codex_ray.runs.attach:attach_verb",
        path="run",
        summary="show the live display of a run that another terminal or job drives",
        teaches=(
            "Follows a run by its folder alone, from any machine that sees it, and ends with the run. Ctrl-C "
            "detaches; the run goes on."
        ),
        examples=(
            ("runs attach first", "the run runs/first"),
            ("runs attach /shared/runs/first", "a job's run on a shared folder"),
            ("runs attach first progress=plain", "lines instead of a display"),
        ),
    ),
    Verb(
        name="runs compare",
        settings="codex_ray.config.runs:CompareRuns",
        function="codex_ray.runs.compare:compare_verb",
        path="names...",
        summary="write one report of several runs: losses, settings that differ, figures",
        teaches=(
            "Draws the runs' losses by step, by tokens and by training time in one page, with a table of the "
            "settings that differ and one of the closing figures."
        ),
        examples=(
            ("runs compare first second", "comparison.html of two runs"),
            ("runs compare first second third output=three.html", "of three"),
            ("runs compare /shared/runs/a /shared/runs/b", "by their folders"),
        ),
    ),
)
