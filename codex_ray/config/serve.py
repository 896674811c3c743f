"""Settings of serving: the model, its engine, limits of requests, keys, replicas."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.common import Device
from codex_ray.config.fields import setting


@dataclass(frozen=True)
class Engine:
    """How a replica computes."""

    sampler: str = setting(
        "own", choices=("own", "vllm"), help="what draws tokens; vllm is Ray Serve LLM's, where installed"
    )
    slots: int = setting(16, minimum=1, help="sequences decoded together by a replica")
    max_tokens: int | None = setting(
        None, minimum=2, help="longest sequence, prompt and completion; unset is the model's, at most 8192"
    )
    cache_bytes: int | None = setting(
        None, minimum=1, help="most bytes of keys and values; unset has room for `slots` longest sequences"
    )
    queue: int = setting(
        16, minimum=0, help="sequences that may wait for a slot of a replica; more are refused with 503"
    )
    request_seconds: float = setting(
        300.0, minimum=0.1, help="longest time that a request takes, waiting included"
    )
    threads: int | None = setting(
        None, minimum=1, help="compute threads of a replica; unset is all cores of its node"
    )
    adapters: int = setting(8, minimum=1, help="adapters kept in memory; the longest unused goes first")


@dataclass(frozen=True)
class Limits:
    """What a request may be, checked before any work is done for it."""

    body_bytes: int = setting(2**20, minimum=1024, help="longest body of a request")
    header_bytes: int = setting(16_384, minimum=512, help="most bytes of a request's headers together")
    headers: int = setting(64, minimum=8, help="most headers of a request")
    body_seconds: float = setting(30.0, minimum=0.1, help="longest time that a body may take to arrive")
    choices: int = setting(8, minimum=1, help="most choices (n) of a request")
    prompts: int = setting(64, minimum=1, help="most prompts or inputs of a request")
    messages: int = setting(512, minimum=1, help="most messages of a chat")
    requests_at_once: int = setting(
        256, minimum=1, help="most requests in work at the front at a time; more are refused with 503"
    )


@dataclass(frozen=True)
class Tls:
    """A certificate, with which the server answers by HTTPS."""

    certificate: str | None = setting(
        None, help="PEM file of the certificate, and of those that vouch for it"
    )
    key: str | None = setting(None, help="PEM file of its key")


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    keys: str | None = setting(
        None, help="file of API keys, of hashes only; unset is ~/.codex_ray/serve_keys.json"
    )
    required: str = setting(
        "auto",
        choices=("auto", "always", "never"),
        help="whether requests need a key; auto: unless the host is loopback and the file names no key",
    )


@dataclass(frozen=True)
class Guarding:
    """What is kept back and what is written down."""

    mask_secrets: bool = setting(True, help="mask keys, tokens and passwords in what the model writes")
    mask_logs: bool = setting(True, help="mask keys, tokens and passwords in every line of the server's logs")
    prompts: str = setting(
        "note",
        choices=("off", "note", "refuse"),
        help="prompts that look like attacks: note writes their risk into the audit log, refuse answers 400",
    )
    risk: float = setting(0.5, minimum=0.0, maximum=1.0, help="risk from which a prompt is refused")
    moderation: str | None = setting(
        None,
        help="address of an outside moderation API, asked before each prompt is answered (OpenAI's "
        "/v1/moderations, its key in CODEX_RAY_MODERATION_KEY)",
    )
    moderation_seconds: float = setting(2.0, minimum=0.01, help="longest wait for the moderation API")
    moderation_fails: str = setting(
        "closed",
        choices=("open", "closed"),
        help="when it does not answer in time: open lets prompts through, closed refuses them with 503",
    )
    audit: str | None = setting(
        None, help="file that gets a line of JSON per request: who, when, tokens, outcome; no content"
    )


@dataclass(frozen=True)
class Replicas:
    """How many copies of a model there are."""

    min: int = setting(1, minimum=0, help="fewest replicas of the model")
    max: int = setting(1, minimum=1, help="most replicas; above `min`, Ray Serve adds and removes them")
    target_requests: int | None = setting(
        None, minimum=1, help="requests in work per replica that autoscaling aims at; unset is engine.slots"
    )
    cpus: float = setting(1.0, minimum=0.0, help="logical CPUs that Ray counts for a replica")
    gpus: float = setting(0.0, minimum=0.0, help="GPUs of a replica")


@dataclass(frozen=True)
class Serve:
    """Put a model behind the OpenAI API."""

    model: str = setting(help="model folder, run folder, adapter folder or Hub name")
    revision: str | None = setting(None, help="Hub revision (branch, tag or commit) of the model")
    name: str | None = setting(None, help="name that clients use; unset is the folder's")
    adapters: str | None = setting(
        None,
        help="folder of LoRA adapters or runs that trained some: each is a model by its folder's name, also "
        "when it comes later",
    )
    models: dict[str, str] = setting({}, help="more models beside it, {NAME: FOLDER}, each with its replicas")
    host: str = setting("127.0.0.1", help="address to listen on; anything but loopback needs API keys")
    port: int = setting(8000, minimum=1, maximum=65_535, help="port to listen on")
    address: str | None = setting(
        None, help="Ray address to join; unset joins RAY_ADDRESS or starts embedded Ray"
    )
    dashboard: bool = setting(False, help="start Ray's dashboard with embedded Ray (loopback only)")
    start_seconds: float = setting(
        600.0, minimum=1.0, help="longest wait until the model answers after the start"
    )
    drain_seconds: float = setting(
        20.0, minimum=0.0, help="longest wait for requests in work when the server ends"
    )
    write_config: str | None = setting(
        None, help="write a YAML file for Ray's `serve run` and `serve deploy` instead of serving"
    )
    feedback: str | None = setting(
        None, help="file that gets preferences of the chat page's users who consent, for finetune method=dpo"
    )
    compute: Device = setting(Device, help="device and precision")
    engine: Engine = setting(Engine, help="how a replica computes")
    limits: Limits = setting(Limits, help="what a request may be")
    tls: Tls = setting(Tls, help="HTTPS")
    access: Access = setting(Access, help="who may ask")
    guarding: Guarding = setting(Guarding, help="what is kept back and written down")
    replicas: Replicas = setting(Replicas, help="copies of the model")


@dataclass(frozen=True)
class ServeUpdate:
    """Change the model of a running server."""

    model: str = setting(help="model folder, run folder, adapter folder or Hub name that takes over")
    name: str | None = setting(None, help="which of the server's models; unset is its first")
    address: str | None = setting(
        None, help="Ray address of the server; unset is RAY_ADDRESS or this machine's"
    )
    seconds: float = setting(600.0, minimum=1.0, help="longest time that loading and trying it may take")


@dataclass(frozen=True)
class ServeKeys:
    """Add, list, revoke or rotate API keys."""

    action: str = setting(choices=("add", "list", "revoke", "rotate"), help="what to do")
    name: str | None = setting(None, help="name of the key, or its ID")
    file: str | None = setting(None, help="file of API keys; unset is ~/.codex_ray/serve_keys.json")
    scopes: list[str] = setting(
        [], choices=("generate", "embed", "metrics"), help="what a new key is for; empty is all"
    )
    requests_per_minute: float | None = setting(None, minimum=0.01, help="budget of a new key")
    tokens_per_minute: float | None = setting(
        None, minimum=1.0, help="budget of a new key, prompts and completions together"
    )
    expires_days: float | None = setting(None, minimum=0.0, help="days until a new key ends; unset is never")


@dataclass(frozen=True)
class Chat:
    """Talk with a model in the terminal."""

    model: str = setting(help="model folder, run folder or Hub name; or the address of an endpoint")
    revision: str | None = setting(None, help="Hub revision (branch, tag or commit) of the model")
    name: str | None = setting(None, help="an endpoint's model; unset is its first")
    key: str | None = setting(None, secret=True, help="an endpoint's API key; unset is OPENAI_API_KEY")
    system: str | None = setting(None, help="system message")
    history: str | None = setting(None, help="file of the conversation, which is taken up from there")
    max_tokens: int | None = setting(None, minimum=1, help="longest answer; unset is what room there is")
    temperature: float = setting(0.8, minimum=0.0, maximum=2.0, help="0 is greedy")
    top_p: float = setting(
        0.95, minimum=0.01, maximum=1.0, help="keep the smallest set with this probability"
    )
    seed: int | None = setting(None, minimum=0, help="seed of sampling; unset draws one")
    compute: Device = setting(Device, help="device and precision of a folder's model")
