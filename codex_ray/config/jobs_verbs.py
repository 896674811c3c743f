"""The verbs for jobs that ``--submit`` has started."""

from __future__ import annotations

from codex_ray.config.verb import Verb

JOBS_VERBS = (
    Verb(
        name="jobs list",
        settings="codex_ray.config.jobs:ListJobs",
        function="codex_ray.cluster.named_jobs:list_verb",
        path="address",
        summary="list a cluster's jobs: the run that each drives, verb, state, age",
        teaches="Asks Ray's dashboard, with the token that RAY_AUTH_TOKEN_PATH names.",
        examples=(
            ("jobs list", "those of the cluster whose dashboard is at 127.0.0.1:8265"),
            ("jobs list http://head:8265", "of another"),
            ("jobs list address=http://head:8265", "the same"),
        ),
    ),
    Verb(
        name="jobs follow",
        settings="codex_ray.config.jobs:FollowJob",
        function="codex_ray.cluster.named_jobs:follow_verb",
        path="name",
        summary="print the log of a run's job until it ends, and return its exit status",
        teaches="Takes the newest job that drives the run. Ctrl-C leaves it running.",
        examples=(
            ("jobs follow first", "the job of the run `first`"),
            ("jobs follow first address=http://head:8265", "on another cluster"),
            ("jobs follow raysubmit_abc", "a job by its id"),
        ),
    ),
    Verb(
        name="jobs stop",
        settings="codex_ray.config.jobs:StopJob",
        function="codex_ray.cluster.named_jobs:stop_verb",
        path="name",
        summary="stop a run's job, which writes its last checkpoint first",
        teaches=(
            "Asks the driver to stop, as Ctrl-C does; what has not ended two minutes later is killed. "
            "`jobs resume` goes on from the checkpoint."
        ),
        examples=(
            ("jobs stop first", "the job of the run `first`"),
            ("jobs stop first address=http://head:8265", "on another cluster"),
            ("jobs stop first seconds=20", "with a shorter wait for its end"),
        ),
    ),
    Verb(
        name="jobs resume",
        settings="codex_ray.config.jobs:ResumeJob",
        function="codex_ray.cluster.named_jobs:resume_verb",
        path="name",
        summary="go on with a run whose job was stopped, failed or was lost",
        teaches=(
            "Submits the run's verb again with the settings in the run's folder and resume=must, ships this "
            "checkout, and follows the log. Where the run's job still goes on it is followed."
        ),
        examples=(
            ("jobs resume first", "the run `first`"),
            ("jobs resume first address=http://head:8265", "on another cluster"),
            ("jobs resume name=first", "the same as the first"),
        ),
    ),
)
