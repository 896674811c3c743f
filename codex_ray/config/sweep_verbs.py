"""The verb that searches settings."""

from __future__ import annotations

from codex_ray.config.verb import Verb

SWEEP_VERBS = (
    Verb(
        name="sweep",
        settings="codex_ray.config.sweep:Sweep",
        function="codex_ray.tune.sweep:sweep",
        path="",
        summary="search the settings of pretrain, finetune or discover with Ray Tune",
        teaches=(
            "Runs one verb many times with different settings, each trial a whole run with its own folder, "
            "as many at a time as the cluster can hold. All words but the sweep's own are the base verb's; "
            "key=a,b,c is tried with each value. Writes the best trial's settings as best.yaml and a report "
            "that compares all. Ctrl-C stops every trial with a checkpoint; resume=must goes on."
        ),
        examples=(
            (
                "sweep corpus model=mhc-tiny,plain-tiny optimizer.kind=adamw,muon sweep.search=grid",
                "four runs, every combination",
            ),
            (
                "sweep corpus sweep=residual train.steps=300 name=residuals",
                "rate and residual kind, the worst given up early",
            ),
            (
                "sweep base=finetune runs/demo data.path=chat.jsonl lora.rank=4,16,64 sweep.search=tpe",
                "adapters of three ranks",
            ),
        ),
        sorter="codex_ray.config.sweep:sort_words",
        preview="codex_ray.tune.sweep:preview",
    ),
)
