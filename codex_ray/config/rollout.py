"""Settings of rollouts: sequences that models sample on Ray actors while others score them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codex_ray.config.fields import setting
from codex_ray.errors import ConfigError
from codex_ray.plugins import find


@dataclass(frozen=True)
class Rollouts:
    """Actors that sample sequences and score them, and how they do it."""

    actors: int = setting(2, minimum=1, help="actors that sample, each with the whole model")
    cpus_per_actor: float = setting(1.0, minimum=0.0, help="logical CPUs reserved per sampling actor")
    gpus_per_actor: float = setting(0.0, minimum=0.0, help="GPUs reserved per sampling actor")
    gpu_kind: str | None = setting(
        None, help="kind of GPU that sampling actors take, as Ray calls it, such as H100; unset is any"
    )
    labels: dict[str, Any] = setting(
        {}, help="Ray node labels that sampling actors ask for: value, !value, in(a,b) or !in(a,b) by label"
    )
    threads_per_actor: int | None = setting(
        None, minimum=1, help="compute threads per sampling actor; unset is one per CPU reserved"
    )
    sampler: str = setting(
        "own",
        choices=("own", "vllm"),
        component="engines",
        help="what samples: codex_ray's own sampler, or vLLM where it is installed (extra gpu), on GPUs, "
        "with whole weights and at temperature 1 from all tokens; or an engine of yours",
    )
    slots: int = setting(
        32, minimum=1, help="sequences that an actor decodes together; more take more memory for their keys"
    )
    task_sequences: int | None = setting(
        None, minimum=1, help="sequences that an actor is given at a time; unset is `slots`"
    )
    max_new_tokens: int = setting(128, minimum=1, help="longest completion in tokens, observations included")
    turn_tokens: int | None = setting(
        None,
        minimum=1,
        help="longest first turn in tokens: an environment may then force the model to come to its answer, "
        "for which the rest of max_new_tokens is left",
    )
    max_turns: int = setting(
        8, minimum=1, help="turns of the model after which an environment that goes on is stopped"
    )
    temperature: float = setting(1.0, minimum=0.0, help="0 is greedy")
    top_k: int = setting(0, minimum=0, help="keep the k likeliest tokens; 0 keeps all")
    top_p: float = setting(1.0, minimum=0.0, maximum=1.0, help="keep the smallest set with this probability")
    min_p: float = setting(0.0, minimum=0.0, help="drop tokens below this share of the likeliest one")
    stop: list[str] = setting([], help="strings that end a turn")
    staleness: int = setting(
        0,
        minimum=0,
        help="batches that the weights that sample are behind: 0 samples, then trains; 1 samples the next "
        "batch while this one is trained on",
    )
    scorers: int = setting(1, minimum=1, help="actors that score sequences and answer for environments")
    cpus_per_scorer: float = setting(0.0, minimum=0.0, help="logical CPUs reserved per scorer")
    gpus_per_scorer: float = setting(
        0.0, minimum=0.0, help="GPUs reserved per scorer, on which a reward model computes; 0 is the CPU"
    )
    failure_reward: float | None = setting(
        None, help="reward of a sequence whose scoring failed; unset leaves the sequence out"
    )
    attempts: int = setting(
        3, minimum=1, help="actors that may be lost over one task before the run ends, naming it"
    )
    start_seconds: float = setting(300.0, minimum=1.0, help="longest wait for an actor to start")
    task_seconds: float = setting(
        900.0, minimum=0.1, help="longest time for one task; an actor over it is replaced"
    )
    score_seconds: float = setting(
        60.0, minimum=0.1, help="longest time for one score or answer; a scorer over it is replaced"
    )
    step_seconds: float = setting(3600.0, minimum=1.0, help="longest wait for a step's sequences")

    def cpus(self, *, scored: bool) -> float:
        """Logical CPUs that a pool takes, its scorers included where it has any."""
        scorers = self.scorers * self.cpus_per_scorer if scored else 0.0
        return self.actors * self.cpus_per_actor + scorers

    @property
    def threads(self) -> int:
        """Compute threads of a sampling actor, the same however many there are: sums round by them."""
        return self.threads_per_actor or max(1, int(self.cpus_per_actor))

    @property
    def together(self) -> int:
        """Sequences of one task."""
        return self.task_sequences or self.slots


@dataclass(frozen=True)
class Spread:
    """Ray actors that share the work of many prompts."""

    actors: int = setting(0, minimum=0, help="actors, each with the whole model; 0 samples in this process")
    cpus_per_actor: float = setting(1.0, minimum=0.0, help="logical CPUs reserved per actor")
    gpus_per_actor: float = setting(0.0, minimum=0.0, help="GPUs reserved per actor")
    address: str | None = setting(
        None, help="Ray address to join; unset joins RAY_ADDRESS or starts embedded Ray"
    )
    attempts: int = setting(
        3, minimum=1, help="actors that may be lost over the same prompts before all ends"
    )
    start_seconds: float = setting(300.0, minimum=1.0, help="longest wait for an actor to start")
    task_seconds: float = setting(900.0, minimum=1.0, help="longest time for twice `batch_rows` prompts")

    def rollouts(self) -> Rollouts:
        """Return what such actors take, as it is said of a pool's."""
        return Rollouts(
            actors=self.actors, cpus_per_actor=self.cpus_per_actor, gpus_per_actor=self.gpus_per_actor
        )


def refuse_rollouts(settings: Rollouts, prefix: str = "rollout.") -> None:
    """Refuse settings that cannot go together.

    Args:
        settings: of the rollouts.
        prefix: dotted prefix of their keys in errors.

    Raises:
        ConfigError: one sentence with the keys, the numbers and the remedy.
    """
    gpus = settings.gpus_per_actor
    if settings.gpu_kind is not None and not gpus:
        raise ConfigError(
            f"{prefix}gpu_kind={settings.gpu_kind} asks for a kind of GPU and {prefix}gpus_per_actor is 0; "
            f"give {prefix}gpus_per_actor=1"
        )
    if gpus > 1:
        raise ConfigError(
            f"{prefix}gpus_per_actor={gpus:g} is not possible, an actor samples on one GPU; give "
            f"{prefix}gpus_per_actor=1 and as many {prefix}actors as GPUs"
        )
    plain = (settings.temperature, settings.top_k, settings.top_p, settings.min_p) == (1, 0, 1, 0)
    if settings.sampler not in ("own", "vllm"):
        find("engines", settings.sampler, f"{prefix}sampler")
    if settings.sampler == "vllm" and (not gpus or not plain):
        raise ConfigError(
            f"{prefix}sampler=vllm samples on GPUs, at temperature 1 from all tokens, and there are "
            f"{prefix}gpus_per_actor={gpus:g}, {prefix}temperature={settings.temperature:g}, "
            f"{prefix}top_k={settings.top_k}, {prefix}top_p={settings.top_p:g} and "
            f"{prefix}min_p={settings.min_p:g}; give {prefix}gpus_per_actor=1 and leave the others out, or "
            f"leave {prefix}sampler out"
        )
    for label, wanted in settings.labels.items():
        if not isinstance(wanted, str) or not wanted:
            raise ConfigError(
                f"{prefix}labels.{label} must be text, not {wanted!r}; give it in quotes, such as "
                f"{prefix}labels.{label}='\"{wanted}\"'"
            )
    if settings.top_p == 0 or settings.min_p >= 1:
        raise ConfigError(
            f"{prefix}top_p={settings.top_p:g} and {prefix}min_p={settings.min_p:g} keep no token; give "
            f"{prefix}top_p above 0 and {prefix}min_p below 1"
        )
    if settings.task_sequences is not None and settings.task_sequences < settings.slots:
        raise ConfigError(
            f"{prefix}task_sequences={settings.task_sequences} never fills {prefix}slots={settings.slots}; "
            f"give {prefix}slots={settings.task_sequences}, or more sequences a task"
        )
    if settings.turn_tokens is not None and settings.turn_tokens >= settings.max_new_tokens:
        raise ConfigError(
            f"{prefix}turn_tokens={settings.turn_tokens} leaves nothing of {prefix}max_new_tokens="
            f"{settings.max_new_tokens} for the turn after it; lower it"
        )
    if "" in settings.stop:
        raise ConfigError(f"{prefix}stop holds an empty string, which would end every turn; leave it out")


def refuse_own_draws(drawn: Rollouts, what: str, rank: int, prefix: str) -> None:
    """Refuse what cannot be learnt from by ``what``, with an adapter of a ``rank`` where that is not 0.

    It learns from the model's own distribution, and its weights are published.

    Raises:
        ConfigError: one sentence with the keys and the remedy.
    """
    if drawn.temperature == 0 or drawn.top_k or drawn.min_p or drawn.top_p < 1:
        raise ConfigError(
            f"{prefix}{what} learns from draws of the model's own distribution; leave "
            f"{prefix}rollout.top_k, top_p and min_p unset and give {prefix}rollout.temperature above 0"
        )
    if drawn.sampler == "vllm" and rank:
        raise ConfigError(
            f"{prefix}rollout.sampler=vllm takes whole weights and {prefix}lora.rank={rank} trains an "
            "adapter; leave one of them out"
        )
