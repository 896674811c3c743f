"""The verbs that look at corpora and make new ones of them."""

from __future__ import annotations

from codex_ray.config.verb import Verb

CORPUS_VERBS = (
    Verb(
        name="corpus show",
        settings="codex_ray.config.corpora:ShowCorpus",
        function="codex_ray.corpus.verbs.show:show_verb",
        path="corpus",
        summary="look at a corpus, at rows of it as text, or at a document",
        teaches=(
            "Prints what a corpus holds: splits, sources with version and licence, what was dropped and why, "
            "with examples. With row= it decodes rows and names the documents in them; with document= or "
            "number= it prints a document, a training document from its tokens."
        ),
        examples=(
            ("corpus show corpus", "sources, splits, and what was dropped with examples"),
            ("corpus show corpus split=train row=0 count=3", "the first three training rows as text"),
            ("corpus show corpus document=json/decoder.py", "one document, whichever split it is in"),
        ),
    ),
    Verb(
        name="corpus verify",
        settings="codex_ray.config.corpora:VerifyCorpus",
        function="codex_ray.corpus.verbs.verify:verify_verb",
        path="corpus",
        summary="hash every file of a corpus and hold its index against its rows",
        teaches=(
            "Hashes every file, several at a time, and compares the index with the rows: every token is of "
            "exactly one document, but for padding, and a document's tokens give back the text that its "
            "SHA-256 names. Every damage is printed; the status is 1 if there is any."
        ),
        examples=(
            ("corpus verify corpus", "every file, the whole index, a sample of the rows"),
            ("corpus verify corpus deep=true", "every row as well"),
            ("corpus verify corpus threads=16 progress=plain", "on fast storage, with lines for a log"),
        ),
    ),
    Verb(
        name="corpus diff",
        settings="codex_ray.config.corpora:DiffCorpora",
        function="codex_ray.corpus.verbs.diff:diff_verb",
        path="first second",
        summary="say what differs between two corpora",
        teaches=(
            "Compares layout, tokenizer, settings, sources, splits, files and, through the indexes, which "
            "documents are in one corpus alone or in another split. The status is 0 for equal corpora and "
            "1 for different ones, as that of diff."
        ),
        examples=(
            ("corpus diff before after", "settings, counts, files and documents"),
            ("corpus diff before after documents=false", "manifests alone, at once"),
            ("corpus diff before after output=changed.jsonl", "every document that differs, as JSON lines"),
        ),
    ),
    Verb(
        name="corpus merge",
        settings="codex_ray.config.corpora:MergeCorpora",
        function="codex_ray.corpus.verbs.merge:merge_verb",
        path="",
        summary="join corpora of one tokenizer and sequence length",
        teaches=(
            "Writes one corpus of several; their sources keep their names, with -2 after one that is taken. "
            "A text that one corpus holds out and another trains on stays held out and is removed from "
            "training; what else several hold is reported, or removed with duplicates=remove."
        ),
        examples=(
            ("corpus merge corpora=[web,code] output=both", "in proportion to their rows"),
            (
                "corpus merge corpora=[web,code] output=both weights={web:3,code:1}",
                "three to one",
            ),
            ("corpus merge corpora=[a,b,c] output=all duplicates=remove", "each text once"),
        ),
    ),
    Verb(
        name="corpus rows",
        settings="codex_ray.config.corpora:CorpusRows",
        function="codex_ray.corpus.verbs.rows:rows_verb",
        path="run",
        summary="say which rows and documents an optimizer step saw",
        teaches=(
            "Works out the rows of a step from the corpus, the seed and the batch, names the documents in "
            "them, and compares their checksum with the one that the run recorded."
        ),
        examples=(
            ("corpus rows runs/first step=12", "the documents that step 12 of a run saw"),
            ("corpus rows runs/first step=12 text=true", "with the text"),
            ("corpus rows step=1 corpus=corpus seed=7 batch_rows=16", "of a run that is still to come"),
        ),
    ),
    Verb(
        name="corpus find",
        settings="codex_ray.config.corpora:FindDocuments",
        function="codex_ray.corpus.verbs.find:find_verb",
        path="corpus",
        summary="find documents by name, content hash or text",
        teaches=(
            "Prints every document whose name, SHA-256 or text matches: split, source, name, SHA-256, bytes "
            "and rows, separated by tabs; or writes them as JSON lines, which corpus remove takes."
        ),
        examples=(
            ("corpus find corpus name='*.md'", "by name; * and ? stand for anything"),
            ("corpus find corpus text='John Doe' output=found.jsonl", "by text, as JSON lines"),
            ("corpus find corpus text=TODO split=train limit=10", "the first ten"),
        ),
    ),
    Verb(
        name="corpus remove",
        settings="codex_ray.config.corpora:RemoveDocuments",
        function="codex_ray.corpus.verbs.remove:remove_verb",
        path="corpus",
        summary="write a corpus without some of its documents",
        teaches=(
            "Writes a new corpus without the documents named, from its rows alone: the text they came from "
            "is not needed. The account counts them as removed. The old corpus stays as it is."
        ),
        examples=(
            ("corpus remove corpus output=clean 'names=[secrets.py]'", "by name, or by glob: [*.lock]"),
            ("corpus remove corpus output=clean match=found.jsonl", "what corpus find wrote"),
            ("corpus remove corpus output=clean names=[a*] source=web", "of one source"),
        ),
    ),
)
