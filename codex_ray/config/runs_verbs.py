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
        name="runs tag",
        settings="codex_ray.config.runs:TagRun",
        function="codex_ray.runs.keep:tag_verb",
        path="run",
        summary="add and remove tags of a run; what is tagged keep is never pruned",
        teaches="Tags lie in the run's folder, as tags.json. Without add and remove, prints those there are.",
        examples=(
            ("runs tag first 'add=[keep,paper]'", "two tags more"),
            ("runs tag first 'remove=[paper]'", "one less"),
            ("runs tag /shared/runs/first", "what it has"),
        ),
    ),
    Verb(
        name="runs prune",
        settings="codex_ray.config.runs:PruneRuns",
        function="codex_ray.runs.keep:prune_verb",
        path="runs",
        summary="say what old runs or checkpoints would free, and with yes=true take them away",
        teaches=(
            "Lists every run with what of it would go, or why nothing does: it runs, ended otherwise, is "
            "young, is tagged, or another run's model began from it. Of checkpoints a run's newest always "
            "stays. Nothing goes without yes=true."
        ),
        examples=(
            ("runs prune", "what old checkpoints take"),
            ("runs prune yes=true older_days=7", "take those away that are older than a week"),
            (
                "runs prune /shared/runs what=runs 'states=[failed,stopped]'",
                "whole runs that came to nothing",
            ),
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
