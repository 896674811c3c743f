"""The verbs of serving."""

from __future__ import annotations

from codex_ray.config.verb import Verb

SERVE_VERBS = (
    Verb(
        name="serve",
        settings="codex_ray.config.serve:Serve",
        function="codex_ray.serve.verb:serve_verb",
        path="model",
        summary="put a model behind the OpenAI API, on this machine or a cluster, with Ray Serve",
        teaches=(
            "Serves any causal language model, ours or another's: completions, chats by the model's own "
            "template, JSON by schema, embeddings, streams. On this machine in one command, on loopback, "
            "without keys; elsewhere with API keys (serve keys add NAME) and as many replicas as it takes. "
            "Ctrl-C lets requests in work end. --write-config FILE writes the YAML that Ray's own "
            "`serve run` and `serve deploy` take."
        ),
        examples=(
            ("serve runs/first", "the model of a run at http://127.0.0.1:8000/v1"),
            ("serve Qwen3-0.6B port=9000 engine.slots=32", "another port, 32 sequences at a time"),
            ("serve runs/first replicas.max=4 write_config=app.yaml", "for `serve deploy app.yaml`"),
        ),
    ),
    Verb(
        name="serve update",
        settings="codex_ray.config.serve:ServeUpdate",
        function="codex_ray.serve.update_verb:update_verb",
        path="model",
        summary="change the model of a running server without losing a request",
        teaches=(
            "Every replica loads the new model beside the old one and tries it. When all can, new requests "
            "go to it, and those under way end as they began; when one cannot, the old model goes on and the "
            "reason is told. Clients go on using the same name. For a while both models are in memory."
        ),
        examples=(
            ("serve update runs/second", "this machine's server"),
            ("serve update /shared/runs/second address=auto name=chat", "one of a cluster's models"),
            ("serve update runs/first", "and back"),
        ),
    ),
    Verb(
        name="serve keys",
        settings="codex_ray.config.serve:ServeKeys",
        function="codex_ray.serve.keys_verb:keys_verb",
        path="action name",
        summary="add, list, revoke or rotate API keys, while servers run",
        teaches=(
            "Keys are shown once and kept as hashes, in a file that running servers look at every second. A "
            "key may be for some routes, have budgets of requests and tokens per minute, and end on a day."
        ),
        examples=(
            ("serve keys add alice tokens_per_minute=20000", "a key with a budget"),
            ("serve keys list", "all of them, without their texts"),
            ("serve keys revoke alice", "ends within a second"),
        ),
    ),
    Verb(
        name="chat",
        settings="codex_ray.config.serve:Chat",
        function="codex_ray.serve.chat:chat_verb",
        path="model",
        summary="talk with a model in the terminal, of a folder or behind an endpoint",
        teaches=(
            "A conversation by the model's own chat template, streamed, with line editing. /again answers "
            "anew, /new forgets all, /quit ends, Ctrl-C stops an answer. From a pipe, every line is a turn."
        ),
        examples=(
            ("chat runs/first", "the model of a run, in this process"),
            ("chat http://127.0.0.1:8000 temperature=0", "a server's first model"),
            ("chat runs/first history=talk.jsonl system='Be brief.'", "a conversation that is kept"),
        ),
    ),
)
