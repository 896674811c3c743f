"""A pool of Ray actors that sample and score, as a trainer's ranks or a script use it.

    with open_pool(Rollouts(), FromFolder("runs/mine", Device()), SingleTurn(verify), seed=1) as pool:
        for rollout in pool.sample([Prompt(ids, problem)], samples=64):
            ...

A trainer publishes its weights before each step, submits the step's prompts from one rank, and every rank
collects its part. With ``staleness=1`` it submits the next step's prompts first, and collects what was
submitted a step ago: that is sampled while it trains.

In synchronous mode results are equal bit for bit however many actors there are, whoever answers first, and
also when actors are lost: what is sampled together, and with which seeds, follows from the step's positions.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor

from codex_ray.cluster.preflight import matches, nodes
from codex_ray.config.rollout import Rollouts, refuse_rollouts
from codex_ray.errors import CodexRayError
from codex_ray.rollout.actor import Builder, SamplingActor
from codex_ray.rollout.environment import EnvironmentBuilder
from codex_ray.rollout.episode import Prompt, Rollout
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.scorer import ScoringActor
from codex_ray.rollout.steps import Order

POLL_SECONDS = 1.0
ANSWER_SECONDS = 60.0  # for what the coordinator answers at once
NAMESPACE = "codex_ray"


class RolloutPool:
    """A pool, from any process of its cluster; it travels as its name.

    Args:
        name: of its coordinator.
        layout: what parameters the sampling models have.
        settings: as it was opened with.
    """

    def __init__(self, name: str, layout: Any, settings: Rollouts) -> None:
        self.name, self.layout, self.settings = name, layout, settings
        self._collected_at: float | None = None
        self._next_step = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return RolloutPool, (self.name, self.layout, self.settings)

    def begin(self) -> None:
        """Forget what was submitted and not collected, and all weights: training starts from some step.

        To be called by one rank, before any rank of its group collects: put a barrier behind it.
        """
        self._call("begin", (), ANSWER_SECONDS, "the pool to begin")

    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Give the actors weights, which they take with their next task that asks for them.

        Args:
            version: above the last one's; training steps count well.
            tensors: trained parameters by the names that the sampling model has: all, or an adapter's.

        Raises:
            CodexRayError: the sampling model has other parameters.
            LedgerError: the version is older than the newest.
        """
        import ray

        from codex_ray.rollout.weights import pack

        packed = pack(tensors, self.layout)
        place = [ray.put(packed)]
        self._call("publish", (version, place, packed.checksum), ANSWER_SECONDS, "weights to be published")

    def submit(
        self,
        step: int,
        version: int | None,
        prompts: Sequence[Prompt],
        samples: int,
        sampling: Sampling | None = None,
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] | None = None,
    ) -> None:
        """Have ``samples`` sequences of each prompt sampled; the work begins at once.

        Args:
            step: names what is submitted, and goes into the seeds.
            version: of the weights that sample; None is the newest. Before any were published, 0 is as the
                model was built.
            prompts: of the whole step, for all ranks.
            samples: sequences of each.
            sampling, max_new_tokens, stop: unset is as the settings say.

        Raises:
            CodexRayError: the step was submitted before, or the weights are too old or not there.
        """
        chosen = sampling or Sampling(
            self.settings.temperature, self.settings.top_k, self.settings.top_p, self.settings.min_p
        )
        order = Order(step, version, list(prompts), samples, chosen, max_new_tokens, stop)
        self._call("submit", (order,), ANSWER_SECONDS, f"step {step} to be submitted")

    def collect(
        self, step: int, rank: int = 0, world_size: int = 1, *, alive: Callable[[], None] | None = None
    ) -> Any:
        """Wait for a step and return this rank's :class:`~codex_ray.rollout.coordinator.Share` of it.

        Ranks' shares are consecutive sequences, equally many or one less; a group may lie on two ranks, and
        every sequence has the rewards of its whole group. ``trainer/idle_ratio`` among the figures is the
        share of time since the last collection that was spent waiting here.

        Args:
            step: that was submitted, or will be by another rank.
            rank, world_size: whose part.
            alive: called about once a second while waiting.

        Raises:
            CodexRayError: the step cannot be sampled, or is not there within ``step_seconds``.
        """
        began = time.monotonic()
        seconds = self.settings.step_seconds
        what = f"the rollouts of step {step} (rollout.step_seconds)"
        share = self._call("collect", (step, rank, world_size), seconds, what, alive)
        now = time.monotonic()
        since = began if self._collected_at is None else self._collected_at
        share.figures["trainer/idle_ratio"] = (now - began) / max(now - since, 1e-9)
        self._collected_at = now
        return share

    def sample(
        self,
        prompts: Sequence[Prompt],
        samples: int = 1,
        *,
        step: int | None = None,
        sampling: Sampling | None = None,
    ) -> list[Rollout]:
        """Submit and collect, with the newest weights: for a script, where each call counts as a step.

        Beside training give a ``step`` that no training step has.
        """
        if step is None:
            step, self._next_step = self._next_step, self._next_step + 1
        self.submit(step, None, prompts, samples, sampling)
        rollouts: list[Rollout] = self.collect(step).rollouts
        return rollouts

    def counts(self) -> dict[str, int]:
        """Return the book's counts: submitted = accepted + filtered + running, deaths and resubmissions."""
        counts: dict[str, int] = self._call("counts", (), ANSWER_SECONDS, "the pool's counts")
        return counts

    def processes(self) -> list[int]:
        """Return process numbers: of the actors that sample, then of the scorers."""
        numbers: list[int] = self._call("processes", (), ANSWER_SECONDS, "the actors' process numbers")
        return numbers

    def _call(
        self,
        method: str,
        arguments: tuple[Any, ...],
        seconds: float,
        what: str,
        alive: Callable[[], None] | None = None,
    ) -> Any:
        import ray

        coordinator = self._coordinator()
        reference = getattr(coordinator, method).remote(*arguments)
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            ready, _ = ray.wait([reference], timeout=min(POLL_SECONDS, max(0.0, left)))
            if ready:
                return _result(reference)
            if left <= 0:
                state = _result(coordinator.progress.remote(), ANSWER_SECONDS)
                raise CodexRayError(f"waited {seconds:g} s for {what} in vain: {state}")
            if alive is not None:
                alive()

    def _coordinator(self) -> Any:
        import ray

        try:
            return ray.get_actor(self.name, namespace=NAMESPACE)
        except ValueError:
            raise CodexRayError(
                f"the rollout pool {self.name} is gone; the process that opened it has ended, run again"
            ) from None


@contextmanager
def open_pool(
    settings: Rollouts,
    build: Builder,
    environment: EnvironmentBuilder | None = None,
    *,
    seed: int,
) -> Iterator[RolloutPool]:
    """Start a pool in this process's Ray session for the length of the block.

    Args:
        settings: how many actors, and how they sample.
        build: makes the model that samples and its tokenizer.
        environment: makes what answers and scores; unset scores nothing.
        seed: that all draws derive from.

    Raises:
        ConfigError: settings that cannot go together.
        CodexRayError: the cluster has no room, or an actor does not start.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from codex_ray.rollout.coordinator import Coordinator

    refuse_rollouts(settings)
    check_room(settings, scored=environment is not None)
    name = f"rollouts-{secrets.token_hex(4)}"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # This handle keeps the coordinator, and with it all that it starts, until the block ends.
    coordinator: Any = (
        ray.remote(Coordinator)
        .options(name=name, namespace=NAMESPACE, num_cpus=0, scheduling_strategy=here)
        .remote(
            settings,
            seed,
            [partial(_sampler, settings, build)] * settings.actors,
            [partial(_scorer, settings, environment)] * settings.scorers if environment is not None else [],
        )
    )
    try:
        # Actors have their own deadline; this one is for a coordinator that does not even start.
        layout = _result(coordinator.open.remote(), settings.start_seconds + 2 * ANSWER_SECONDS)
        yield RolloutPool(name, layout, settings)
    finally:
        with suppress(ray.exceptions.RayError):  # where it is gone already, and its actors with it
            ray.get(coordinator.close.remote(), timeout=ANSWER_SECONDS)
        ray.kill(coordinator)


def check_room(settings: Rollouts, *, scored: bool, prefix: str = "rollout.") -> None:
    """Refuse actors that no set of nodes can ever hold; ``prefix`` is of their keys in errors.

    Raises:
        CodexRayError: with what is wanted and what there is.
    """
    offers = nodes()
    wanted, there = settings.cpus(scored=scored), sum(one.resources.get("CPU", 0.0) for one in offers)
    if wanted > there:
        raise CodexRayError(
            f"sampling needs {wanted:g} CPUs and the cluster has {there:g}; lower {prefix}actors"
            f"{f' or {prefix}scorers' if scored else ''}, or raise cluster.logical_cpus"
        )
    fitting = [
        offer
        for offer in offers
        if all(matches(offer.labels.get(label), str(value)) for label, value in settings.labels.items())
        and (settings.gpu_kind is None or offer.resources.get(f"accelerator_type:{settings.gpu_kind}"))
    ]
    each = {"CPU": settings.cpus_per_actor, "GPU": settings.gpus_per_actor}
    held = sum(
        min(
            int(offer.resources.get(kind, 0.0) / amount + 1e-9) if amount else settings.actors
            for kind, amount in each.items()
        )
        for offer in fitting
    )
    if held < settings.actors:
        raise CodexRayError(
            f"sampling needs {settings.actors} actors of {each['CPU']:g} CPUs and {each['GPU']:g} GPUs, and "
            f"the cluster's {len(fitting)} nodes that fit can hold {held}; lower {prefix}actors, ask less "
            "for each, or raise cluster.logical_cpus"
        )


def _sampler(settings: Rollouts, build: Builder) -> Any:
    import ray

    options: dict[str, Any] = {"num_cpus": settings.cpus_per_actor, "scheduling_strategy": "SPREAD"}
    if settings.gpus_per_actor:
        options["num_gpus"] = settings.gpus_per_actor
    if settings.gpu_kind is not None:
        options["accelerator_type"] = settings.gpu_kind
    if settings.labels:
        options["label_selector"] = dict(settings.labels)
    actor = ray.remote(SamplingActor).options(**options)
    return actor.remote(build, settings.threads)


def _scorer(settings: Rollouts, environment: EnvironmentBuilder) -> Any:
    import ray

    options = {"num_cpus": settings.cpus_per_scorer, "num_gpus": settings.gpus_per_scorer}
    return ray.remote(ScoringActor).options(**options).remote(environment)


def _result(reference: Any, seconds: float | None = None) -> Any:
    """Return what a call gave.

    Raises:
        CodexRayError: it raised that, the coordinator is gone, or it did not answer in time.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

    try:
        return ray.get(reference, timeout=seconds)
    except RayTaskError as error:
        if isinstance(error.cause, CodexRayError):
            raise error.cause from None
        raise
    except GetTimeoutError:
        raise CodexRayError(
            f"the rollout pool's coordinator did not answer within {seconds:g} s; its node may be "
            "overloaded, run again"
        ) from None
    except RayActorError as error:
        raise CodexRayError(
            f"the rollout pool's coordinator died ({str(error).strip().splitlines()[0][:200]}); run again"
        ) from None
