"""The verbs: what each does, its settings class and the function that runs it, by name.

Functions are named as text so that reading this table imports nothing heavy.
"""

from __future__ import annotations

from codex_ray.config.corpus_verbs import CORPUS_VERBS
from codex_ray.config.discover_verbs import DISCOVER_VERBS
from codex_ray.config.jobs_verbs import JOBS_VERBS
from codex_ray.config.runs_verbs import RUNS_VERBS
from codex_ray.config.serve_verbs import SERVE_VERBS
from codex_ray.config.sweep_verbs import SWEEP_VERBS
from codex_ray.config.verb import Verb
from codex_ray.errors import ConfigError, nearest

__all__ = ["VERBS", "Verb", "find_verb"]


def find_verb(name: str) -> Verb:
    """Return the verb called ``name``.

    Raises:
        ConfigError: there is none; the sentence names the nearest.
    """
    if name in VERBS:
        return VERBS[name]
    inner = [verb.removeprefix(f"{name} ") for verb in VERBS if verb.startswith(f"{name} ")]
    if inner:
        raise ConfigError(f"verb {name!r} needs one of {', '.join(inner)} after it")
    group, _, rest = name.partition(" ")
    inner = [verb.removeprefix(f"{group} ") for verb in VERBS if verb.startswith(f"{group} ")]
    if inner:
        hint = nearest(rest, inner) or f"; it is one of {', '.join(inner)}"
        raise ConfigError(f"unknown verb {rest!r} of {group!r}{hint}")
    firsts = dict.fromkeys(verb.split(" ")[0] for verb in VERBS)
    raise ConfigError(f"unknown verb {name!r}{nearest(name, firsts) or '; try codex-ray --help'}")


_IN_LIFE_ORDER = (
    Verb(
        name="quickstart",
        settings="codex_ray.config.quickstart:Quickstart",
        function="codex_ray.quickstart:quickstart",
        path="text",
        summary="the whole life in minutes: text to a trained, evaluated, talking model",
        teaches=(
            "Runs prepare, pretrain, evaluate, generate and export in one folder on real text (this "
            "Python's standard library, or your own folder), then prints one table and the next command. "
            "Interrupted, it continues where it stopped."
        ),
        examples=(
            ("quickstart", "train on the standard library for about five minutes"),
            ("quickstart mytext folder=mine seconds=600", "ten minutes on a folder of your own text"),
            ("quickstart model=plain-tiny optimizer=adamw", "the same life of a plain decoder under AdamW"),
        ),
    ),
    Verb(
        name="prepare",
        settings="codex_ray.config.corpus:Prepare",
        function="codex_ray.corpus.prepare:prepare",
        path="text",
        summary="turn a folder of text into a corpus: read, clean, split, tokenise, pack",
        teaches=(
            "Reads every matching file under a folder, drops what is too short, too long or repeated, holds "
            "out documents by content hash, trains a SentencePiece tokenizer (or takes a trained one) and "
            "packs the tokens into Parquet shards of equal rows. The manifest is written last: a folder "
            "without it is not a corpus."
        ),
        examples=(
            ("prepare stdlib output=corpus", "this Python's standard library"),
            ("prepare books source=prose tokenizer=bpe-8k", "a folder of prose, a vocabulary of 8,192"),
            ("prepare code pack.sequence_length=1024 workers=8", "longer rows, eight parallel tasks"),
        ),
    ),
    Verb(
        name="pretrain",
        settings="codex_ray.config.train:Pretrain",
        function="codex_ray.train.driver:pretrain",
        path="corpus",
        summary="train a decoder from scratch on a corpus with Ray Train and DeepSpeed",
        teaches=(
            "Trains the mHC decoder on a corpus folder and writes a run folder: resolved config, metrics, "
            "checkpoints, the final model folder and a report. The batch is in tokens over all workers; "
            "micro-batches are derived. Ctrl-C writes a checkpoint; resume=auto continues from it."
        ),
        examples=(
            ("pretrain corpus name=first train.steps=200", "200 optimizer steps of the smallest model"),
            (
                "pretrain corpus optimizer=muon schedule=wsd train.seconds=290",
                "Muon on hidden matrices, for a given time",
            ),
            (
                "pretrain corpus model=mhc-base deepspeed=zero2 cluster=gpu cluster.workers=8",
                "350 M parameters on eight GPUs",
            ),
        ),
    ),
    Verb(
        name="finetune",
        settings="codex_ray.config.finetune:Finetune",
        function="codex_ray.train.finetune:finetune",
        path="model data.path",
        summary="train a model on examples: chat messages, or prompts and responses",
        teaches=(
            "Takes any causal language model, ours or another's, and rows of chat messages or of prompt "
            "and response (JSONL, Parquet, CSV, datasets). Only what the assistant writes is learnt; the "
            "examples are packed into rows without seeing each other. All weights are trained, or adapters "
            "with lora.rank=N. The run folder, checkpoints, resumption and faults are those of pretrain."
        ),
        examples=(
            ("finetune runs/first chats.jsonl name=chat", "all weights, one pass over a file of messages"),
            (
                "finetune Qwen3-0.6B pairs.jsonl lora.rank=16 train.epochs=3",
                "adapters of rank 16, three passes over prompts and responses",
            ),
            (
                "finetune model rows.parquet data.prompt=question data.response=answer data.chat=true",
                "columns of other names, as a user's turn and the assistant's",
            ),
        ),
    ),
    *DISCOVER_VERBS,
    *SWEEP_VERBS,
    Verb(
        name="plan",
        settings="codex_ray.config.plan:Plan",
        function="codex_ray.plan.verb:plan",
        path="corpus",
        summary="what a run of pretrain would need in memory, time and money",
        teaches=(
            "Takes the words of pretrain and starts no run. Prints memory per worker at each ZeRO stage, the "
            "time of a step by part, tokens per day, what checkpoints cost, how often to write them under "
            "failures, and the price. Cards are planned by their data sheets; this machine's CPUs are "
            "measured on the spot, at the run's own shapes. No corpus is needed where vocabulary_size and "
            "sequence_length are given."
        ),
        examples=(
            ("plan corpus recipe=cpu-tiny", "the smallest recipe on this machine"),
            (
                "plan none recipe=h200-7b card=H200 vocabulary_size=32768 sequence_length=4096",
                "7 B parameters on eight H200, without a corpus",
            ),
            (
                "plan none recipe=h200-1b card=H200 vocabulary_size=32768 train.steps=50000 node_price=25",
                "a long run and its price",
            ),
        ),
    ),
    Verb(
        name="evaluate",
        settings="codex_ray.config.evaluate:Evaluate",
        function="codex_ray.evaluate.run:evaluate",
        path="model",
        summary="measure a model on held-out text and on tasks, with intervals",
        teaches=(
            "Scores every token of a corpus split, or of files, with a sliding window, and prints bits per "
            "byte and perplexity; with baselines=true beside gzip, xz and an n-gram model of the same files. "
            "With tasks=[...] it answers prompts and measures the answers, each figure with a bootstrap "
            "interval; tasks are named ones, YAML files, or files of rows. The model is a run folder, any "
            "Transformers model folder, an adapter, a Hub name, or the name of a model at endpoint.url; "
            "predictions=FILE needs none. Cut off, it goes on where it was."
        ),
        examples=(
            ("evaluate runs/first corpus=corpus", "the validation documents of a corpus"),
            ("evaluate runs/first 'files=[README.md,docs]'", "files of your own"),
            ("evaluate runs/first corpus=corpus split=test baselines=true", "the test split, with baselines"),
            (
                "evaluate runs/first 'tasks=[copy,capitals.yaml]' output=measured",
                "a task that is here and one of yours, with a report",
            ),
            (
                "evaluate predictions=answers.jsonl 'rows.metrics=[bleu,chrf]'",
                "answers from elsewhere, beside their references",
            ),
        ),
    ),
    Verb(
        name="evaluate compare",
        settings="codex_ray.config.evaluate:CompareEvaluations",
        function="codex_ray.evaluate.comparison:compare_verb",
        path="first second",
        summary="say whether two evaluations differ by more than chance",
        teaches=(
            "Takes two folders that evaluate wrote, two run folders, or two files of rows with scores, pairs "
            "their examples (or steps) and prints each metric of both, the difference with the interval of a "
            "paired bootstrap, and the p-value of a randomisation test, also adjusted for how many there are."
        ),
        examples=(
            ("evaluate compare before after", "two evaluations of the same tasks"),
            (
                "evaluate compare before after 'metrics=[exact_match]' output=compared",
                "one metric, with a report",
            ),
            ("evaluate compare runs/a runs/b 'metrics=[validation_loss]'", "two training runs, step by step"),
        ),
    ),
    Verb(
        name="generate",
        settings="codex_ray.config.use:Generate",
        function="codex_ray.rollout.verb:generate_verb",
        path="model",
        summary="complete prompts with a trained model",
        teaches=(
            "Continues a prompt (or standard input, or a JSONL file of prompts in batches) by sampling with "
            "a key/value cache, streaming to the terminal. The same seed gives the same text."
        ),
        examples=(
            ("generate runs/first prompt='def main('", "one completion, streamed"),
            ("generate runs/first prompt='import ' temperature=0 max_new_tokens=64", "the likeliest tokens"),
            ("generate runs/first prompts_file=prompts.jsonl output=out.jsonl", "many prompts, in batches"),
            ("generate runs/first prompts_file=in.jsonl output=out.jsonl spread.actors=4", "on Ray actors"),
        ),
    ),
    *SERVE_VERBS,
    Verb(
        name="export",
        settings="codex_ray.config.use:Export",
        function="codex_ray.model.export:export",
        path="model",
        summary="write a model folder that Transformers loads",
        teaches=(
            "Writes config.json, safetensors, the tokenizer and the modelling code, so that "
            "AutoModelForCausalLM.from_pretrained loads the folder with or without codex_ray installed."
        ),
        examples=(
            ("export runs/first output=exported", "fp32 weights"),
            ("export runs/first output=exported dtype=bfloat16", "half the size"),
            ("export runs/first output=exported max_shard_bytes=1000000000", "files of at most 1 GB"),
        ),
    ),
    Verb(
        name="upcycle",
        settings="codex_ray.config.use:Upcycle",
        function="codex_ray.model.upcycle:upcycle",
        path="model",
        summary="turn a pretrained Llama, Mistral or Qwen decoder into an mHC decoder",
        teaches=(
            "Takes over every matrix and adds mixers that start as the plain residual, so that the new model "
            "computes what the old one did; compares the two, prints the difference and writes a model "
            "folder. pretrain start=FOLDER trains on from it."
        ),
        examples=(
            ("upcycle Qwen3-0.6B output=mhc-0.6b", "a local folder, four streams"),
            ("upcycle Qwen/Qwen3-0.6B output=mhc-0.6b dtype=bfloat16", "from the Hub, half the size"),
            (
                "upcycle Qwen3-0.6B output=mhc residual.kind=mhc_permutation residual.streams=2",
                "another kind of mixing, two streams",
            ),
        ),
    ),
    Verb(
        name="inspect",
        settings="codex_ray.config.use:Inspect",
        function="codex_ray.model.inspect:inspect",
        path="model",
        summary="show a model's parameters by part, its memory and the cost of a token",
        teaches=(
            "Reads only the configuration. Prints parameters by part, bytes per worker of weights, gradients "
            "and optimizer state at each precision and ZeRO stage, the key/value cache of a token, and "
            "floating-point operations of a token in training and in generation."
        ),
        examples=(
            ("inspect runs/first", "the model of a run"),
            ("inspect Qwen3-0.6B sequence_length=4096", "any causal model; costs at longer rows"),
            ("inspect runs/first workers=64", "memory per worker when 64 share it"),
        ),
    ),
    Verb(
        name="tokenizer train",
        settings="codex_ray.config.tokenizer:TrainTokenizer",
        function="codex_ray.tokenizer.verb:train_verb",
        path="text",
        summary="train a SentencePiece tokenizer on a folder of text",
        teaches=(
            "Trains BPE or unigram pieces with byte fallback and no normalisation: decoding gives back the "
            "very text that was encoded. Writes SentencePiece's model and the same tokenizer for "
            "Transformers."
        ),
        examples=(
            ("tokenizer train stdlib output=tokenizer", "2,048 BPE pieces from the standard library"),
            ("tokenizer train books output=tokenizer tokenizer=bpe-8k", "8,192 pieces"),
            ("tokenizer train books output=tokenizer tokenizer=unigram-8k", "a unigram model"),
        ),
    ),
    Verb(
        name="tokenizer encode",
        settings="codex_ray.config.tokenizer:Encode",
        function="codex_ray.tokenizer.verb:encode_verb",
        path="tokenizer",
        summary="turn text into token ids, padded and truncated as asked",
        teaches="Encodes text or files to JSONL, one line per document, with attention masks when padded.",
        examples=(
            ("tokenizer encode corpus/tokenizer text='import os'", "one text"),
            ("tokenizer encode corpus 'files=[a.py,b.py]' output=ids.jsonl", "files, one line each"),
            (
                "tokenizer encode corpus text='import os' pad_to=16 pad_side=left truncate_to=16",
                "exactly sixteen ids and their attention mask",
            ),
        ),
    ),
    Verb(
        name="tokenizer decode",
        settings="codex_ray.config.tokenizer:Decode",
        function="codex_ray.tokenizer.verb:decode_verb",
        path="tokenizer",
        summary="turn token ids back into text",
        teaches="Decodes ids given on the command line or as JSONL, exactly.",
        examples=(
            ("tokenizer decode corpus/tokenizer 'ids=[300,301]'", "ids on the command line"),
            ("tokenizer decode corpus file=ids.jsonl output=texts.jsonl", "many lines"),
            ("tokenizer decode runs/first file=ids.jsonl", "with the tokenizer of a run, printed"),
        ),
    ),
    Verb(
        name="tokenizer export",
        settings="codex_ray.config.tokenizer:ExportTokenizer",
        function="codex_ray.tokenizer.verb:export_verb",
        path="tokenizer",
        summary="write the tokenizer for Transformers, or its vocabulary as text",
        teaches="Writes tokenizer.json with the same ids on every string, or the vocabulary as text.",
        examples=(
            ("tokenizer export corpus/tokenizer output=exported", "a Transformers tokenizer folder"),
            ("tokenizer export corpus output=exported vocabulary_text=true", "vocab.txt as well"),
            ("tokenizer export runs/first", "the tokenizer of a run"),
        ),
    ),
    *CORPUS_VERBS,
    *RUNS_VERBS,
    *JOBS_VERBS,
    Verb(
        name="reproduce",
        settings="codex_ray.config.reproduce:Reproduce",
        function="codex_ray.runs.reproduce:reproduce_verb",
        path="run",
        summary="run a completed run again by its records, and compare figures and weights",
        teaches=(
            "Says first what differs between the environment that the run recorded and this one, then runs "
            "its config.yaml under a new name, and compares loss, gradient norm, learning rate, batches and "
            "validation of every step and the hash of the final weights. Exit status 1 where anything "
            "differs by more than the tolerance, which is nothing unless given."
        ),
        examples=(
            ("reproduce first", "the run runs/first, as runs/first-again"),
            ("reproduce /shared/runs/first name=check", "a run by its folder"),
            ("reproduce first tolerance=1e-5", "figures to five digits, as on another CPU"),
        ),
    ),
    Verb(
        name="lineage",
        settings="codex_ray.config.lineage:Lineage",
        function="codex_ray.runs.lineage:lineage_verb",
        path="path",
        summary="say what a model was made from, back to the text, as a tree",
        teaches=(
            "Reads the records in model, run and corpus folders: the model, the run that made it with its "
            "commit, the rows it saw and their sources, and the model it began from, with its own. What "
            "is no longer what the records say is named, and is exit status 1; deep=true hashes all files."
        ),
        examples=(
            ("lineage exported", "an exported model, its runs and their corpora"),
            (
                "lineage runs/chat deep=true",
                "of a run, with every file hashed; json=true is for machines",
            ),
            (
                "lineage http://127.0.0.1:8000",
                "what an endpoint serves, asked where its folder is seen",
            ),
        ),
    ),
    Verb(
        name="doctor",
        settings="codex_ray.config.doctor:Doctor",
        function="codex_ray.doctor.verb:doctor_verb",
        path="folder",
        summary="say what this machine or a cluster lacks, one line each, with the remedy",
        teaches=(
            "Looks at Python, packages, compilers, GPUs, memory, disk, Ray's token, sandbox, ports and gloo. "
            "Of a cluster (address, RAY_ADDRESS, or one that runs here) every node does so, and versions, "
            "clocks, shared storage and authentication are compared; each two nodes meet over gloo, and over "
            "NCCL where they have GPUs, with latency and bandwidth. Changes nothing. Exit status 1 where "
            "something failed."
        ),
        examples=(
            ("doctor", "this machine, in seconds; starts no Ray"),
            ("doctor /shared/runs address=10.0.0.1:6379", "every node of a cluster, and what they share"),
            ("doctor json=true", "the same for machines"),
        ),
    ),
    Verb(
        name="cluster up",
        settings="codex_ray.config.cluster:ClusterUp",
        function="codex_ray.cluster.local_verbs:up_verb",
        path="folder",
        summary="start a Ray cluster of several nodes on this machine",
        teaches=(
            "Starts several nodes, each in a network namespace where the machine allows that, as processes "
            "on loopback otherwise, with token authentication; waits until all are alive and prints the "
            "commands that use them. For trying out what happens between nodes."
        ),
        examples=(
            ("cluster up", "two nodes of four logical CPUs"),
            ("cluster up nodes=3 cpus_per_node=2", "three smaller nodes"),
            ("cluster up mine isolation=processes", "without namespaces, its state in a folder of your own"),
        ),
    ),
    Verb(
        name="cluster status",
        settings="codex_ray.config.cluster:ClusterStatus",
        function="codex_ray.cluster.local_verbs:status_verb",
        path="folder",
        summary="show the nodes of a local cluster: state, addresses, resources",
        teaches=(
            "Looks at the processes of each node and asks the head: alive, dead (its processes are gone), "
            "lost (they run, the head cannot reach them) or unknown (the head does not answer)."
        ),
        examples=(
            ("cluster status", "the cluster in the usual folder"),
            ("cluster status mine", "the one whose state is in a folder of your own"),
            ("cluster status folder=mine", "the same"),
        ),
    ),
    Verb(
        name="cluster down",
        settings="codex_ray.config.cluster:ClusterDown",
        function="codex_ray.cluster.local_verbs:down_verb",
        path="folder",
        summary="end a local cluster and remove all of it",
        teaches=(
            "Ends every process of every node, whatever started it, removes interfaces, namespaces, Ray's "
            "temporary files and the token, and says if something survives. Running it again does nothing."
        ),
        examples=(
            ("cluster down", "the cluster in the usual folder"),
            ("cluster down mine", "the one whose state is in a folder of your own"),
            ("cluster down folder=mine", "the same"),
        ),
    ),
)

VERBS: dict[str, Verb] = {verb.name: verb for verb in _IN_LIFE_ORDER}
