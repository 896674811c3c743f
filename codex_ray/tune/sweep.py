"""``sweep``: search the settings of a verb that trains, many runs at a time, and keep the best as a file."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codex_ray.cluster import preflight
from codex_ray.cluster.session import default_variables, is_embedded, open_session, refuse_relative_in_job
from codex_ray.config import saved
from codex_ray.config.fields import to_dict
from codex_ray.config.sweep import Sweep
from codex_ray.config.tree import dotted
from codex_ray.errors import CodexRayError, ConfigError, Interrupted
from codex_ray.files import write_json
from codex_ray.track.progress import Progress, figure, open_progress
from codex_ray.track.run_folder import RunFolder
from codex_ray.tune import population, scaling
from codex_ray.tune.books import opened_books
from codex_ray.tune.capacity import capacity_of, longest_tokens
from codex_ray.tune.names import EXPERIMENT
from codex_ray.tune.records import ENDED, RUNNING, STOPPED, Records, TrialRecord
from codex_ray.tune.report import write_report
from codex_ray.tune.scaling_report import facts as scaling_facts
from codex_ray.tune.space import Space, Values, trial_settings

# What may be others when a sweep goes on.
FREE_SEARCHING = ("trials", "concurrent", "hours", "tokens", "stall_seconds", "keep")
FREE = ("resume", "runs", "name", *(f"sweep.{key}" for key in FREE_SEARCHING))
# Read by Ray Tune in this process: its own files and lines are not wanted.
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
ACTOR_CPUS = 0.01  # of a trial's own actor, which waits; Ray Tune takes no less
BEST, NEXT = "best.yaml", "next.yaml"  # settings of the best trial, and of a ladder's next size


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left: its folder, the best trial's settings as a file, and its closing figures."""

    folder: Path
    best: Path | None
    figures: dict[str, float]


def sweep(settings: Sweep, progress: Progress | None = None) -> SweepResult:
    """Run what is missing of a sweep.

    Raises:
        ConfigError: the settings cannot be right.
        CodexRayError: the cluster cannot hold a trial, or all trials failed.
        Interrupted: the user stopped it; trials go on from their checkpoints.
    """
    refuse_relative_in_job(settings.runs, "runs")
    space = Space(settings)
    base = trial_settings(settings, space.choose(lambda axis: axis.values[0]))
    planned = space.trials()
    _refuse_for_this_space(settings, space)
    with (
        open_progress(progress, base.track.progress) as shown,
        RunFolder.open(settings.runs, settings.name, "sweep", settings.resume) as run,
    ):
        _refuse_other_settings(run, settings)
        saved.save(settings, run.config)
        records = Records(run.path, settings.sweep)
        capacity = capacity_of(settings, base)
        with (
            default_variables(ENVIRONMENT),
            open_session(base.cluster, more_cpus=capacity.more_cpus) as there,
            opened_books(settings, base, run) as own,
        ):
            offers = preflight.nodes()
            preflight.check_nodes(base.cluster, offers)
            runs = preflight.runs_at_a_time(base.cluster, offers)
            capacity = capacity.on(there, runs, embedded=is_embedded())
            if capacity.threads is not None:
                own["cluster.threads_per_worker"] = capacity.threads
            _run(settings, space, planned, run, records, capacity.concurrent, own, shown)
            return _close(settings, space, run, records, shown)


def preview(settings: Sweep) -> str:
    """Return the trials of a sweep that are known beforehand, as lines of comments below its settings."""
    space = Space(settings)
    trials = space.trials()
    _refuse_for_this_space(settings, space)
    if trials is None:
        return f"# {settings.sweep.trials} trials, each chosen by what those before it came to\n"
    lines = [f"# {len(trials)} trials"]
    for number, values in enumerate(trials):
        trial_settings(settings, values)
        lines.append(f"# {number}: {'  '.join(f'{key}={value}' for key, value in values.items())}")
    return "\n".join(lines) + "\n"


def _run(
    settings: Sweep,
    space: Space,
    planned: list[Values] | None,
    run: RunFolder,
    records: Records,
    concurrent: int,
    own: dict[str, Any],
    shown: Progress,
) -> None:
    """Run the trials that have not ended, and leave the records right however that ends.

    Raises:
        Interrupted: the user stopped it.
    """
    from ray import tune

    from codex_ray.tune.search import ParzenSearch, make_scheduler, remember
    from codex_ray.tune.segments import Segments
    from codex_ray.tune.trial import TrialRun
    from codex_ray.tune.watch import Limit, Watch

    # What Ray Tune says of trials is in the records; the records are what people see.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    search = settings.sweep
    done = {trial.number for trial in records if trial.state in ENDED}
    total = search.trials if planned is None else len(planned)
    if len(done) >= total and search.scheduler != "pbt":
        return
    scheduler = make_scheduler(search, longest_tokens(settings, space))
    remember(scheduler, records)
    watch = Watch(records, search, shown)
    folder, listed, proposed = str(run.path.absolute()), None, None
    with _stopped_by_signals() as signals, shown.stage("sweep", total=total, unit="trials"):
        if planned is None:
            proposed = ParzenSearch(space, search, records)
        elif search.scheduler == "pbt":
            proposed = Segments(settings, space, records, planned, own, watch, signals)
        else:
            listed = [{"number": n, "values": v} for n, v in enumerate(planned) if n not in done]
        tune.run(
            tune.with_parameters(TrialRun, sweep=settings, folder=folder, own=own),
            name=str(run.attempt),
            storage_path=str(Path(folder) / EXPERIMENT),
            config={} if listed is None else {"trial": tune.grid_search(listed)},
            search_alg=proposed,
            num_samples=-1 if listed is None else 1,
            scheduler=scheduler,
            max_concurrent_trials=concurrent,
            resources_per_trial={"cpu": ACTOR_CPUS},
            stop=Limit(records, watch, search),
            callbacks=[watch],
            reuse_actors=True,  # whose workers train the next
            raise_on_failed_trial=False,
            verbose=0,
            log_to_file=False,
        )
        _leave(run, records, total, interrupted=bool(signals))


def _leave(run: RunFolder, records: Records, total: int, *, interrupted: bool) -> None:
    """Write down what did not come to its end, and tell who interrupted it how to go on."""
    for trial in records:
        if trial.state == RUNNING:
            records.end(trial.number, STOPPED)
    if interrupted:
        ended = sum(trial.state in ENDED for trial in records)
        raise Interrupted(
            f"stopped with {ended} of {total} trials ended; go on with: codex-ray sweep "
            f"--config {run.config} name={run.name} resume=must"
        )


@contextmanager
def _stopped_by_signals() -> Iterator[list[int]]:
    """Let SIGTERM do what Ctrl-C does, which Ray Tune sees to: it ends the trials, each with a checkpoint."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise Interrupted("stopped at once; each trial's newest complete checkpoint is kept")
        os.kill(os.getpid(), signal.SIGUSR1)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with default_variables({"TUNE_DISABLE_SIGINT_HANDLER": "1"}):
            yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _close(settings: Sweep, space: Space, run: RunFolder, records: Records, shown: Progress) -> SweepResult:
    """Write summary, report and the best trial's settings; print the closing tables.

    Raises:
        CodexRayError: no trial measured anything.
    """
    records.prune()
    best = records.best()
    if best is None:
        reasons = {trial.reason for trial in records if trial.reason}
        raise CodexRayError(
            f"none of {len(records)} trials measured {settings.sweep.metrics[0]}"
            f"{': ' + '; '.join(sorted(reasons)[:3]) if reasons else ''}"
        )
    figures = summary(settings, records, best)
    write_json(run.summary, figures)
    write_json(run.outcome, {"status": "completed", "time": time.time()})
    path = run.path / BEST
    saved.save(replace(trial_settings(settings, best.values), name=None), path)
    found = None
    try:
        found = scaling.study(settings, space, records) if settings.sweep.scaling else None
    except ConfigError as error:  # the next size cannot be had, and the trials stand all the same
        shown.note(f"there is no scaling study: {error}")
    write_report(settings, space, run, records, found)
    if found is not None:
        following = run.path / NEXT
        saved.save(replace(trial_settings(settings, found.values), name=None), following)
        how = ("run it", f"codex-ray pretrain --config {following}")
        shown.table("the next size up", [*scaling_facts(found), how])
    heads = ("trial", "state", *settings.sweep.metrics, "tokens", *(key for key in settings.sweep.space))
    rows = [
        (
            trial.name,
            trial.state,
            *(figure(trial.final(name)) for name in settings.sweep.metrics),
            f"{trial.tokens:,}",
            *(figure(trial.values.get(key, "-")) for key in settings.sweep.space),
        )
        for trial in [*records.ranked(), *(one for one in records if not one.results)]
    ]
    shown.table("trials, best first", rows, heads)
    shown.table(
        "best",
        [
            ("settings", str(path)),
            ("run it", f"codex-ray {settings.base} --config {path}"),
            ("report", str(run.report)),
        ],
    )
    return SweepResult(run.path, path, figures)


def summary(settings: Sweep, records: Records, best: TrialRecord) -> dict[str, float]:
    """Return the closing figures of a sweep, as flat names and numbers."""
    states = [trial.state for trial in records]
    figures = {f"best_{name}": best.final(name) for name in settings.sweep.metrics}
    return {
        **figures,
        "best_trial": float(best.number),
        "trials": float(len(records)),
        "tokens": float(records.tokens),
        **{state.replace(" ", "_"): float(states.count(state)) for state in (*ENDED, STOPPED)},
    }


def _refuse_for_this_space(settings: Sweep, space: Space) -> None:
    """Refuse what cannot be searched as the settings say.

    Raises:
        ConfigError: one sentence with the reason and the remedy.
    """
    if settings.sweep.scheduler == "pbt":
        population.segment_ends(settings, space)
    if settings.sweep.scaling:
        scaling.refuse_no_ladder(settings, space)


def _refuse_other_settings(run: RunFolder, settings: Sweep) -> None:
    """Compare a continued sweep's saved settings with the present ones.

    Raises:
        ConfigError: naming the keys that differ.
    """
    if not run.resumed or not run.config.exists():
        return
    then, now = _shaping(saved.read(run.config)), _shaping(to_dict(settings))
    differing = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    if differing:
        raise ConfigError(
            f"sweep {run.name} was begun with other settings: {', '.join(differing)}; continue it with "
            f"--config {run.config}, or give another name=NAME"
        )


def _shaping(settings: Mapping[str, Any]) -> Values:
    return {key: value for key, value in dotted(settings).items() if key not in FREE}
