"""Regular expressions over tokens: what matches, what may come next, and that completions match."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.rollout.grammar import Grammar, Vocabulary, token_bytes
from codex_ray.rollout.regular import DEAD, Automaton
from codex_ray.rollout.request import Request
from codex_ray.rollout.sampler import Sampler
from codex_ray.rollout.sampling import Sampling
from codex_ray.tokenizer import Tokenizer
from tests.unit.rollout.models import POSITIONS, llama, mhc, train_small_tokenizer

PATTERNS = [
    "a",
    "ab*c",
    "(foo|bar)+",
    "[0-9]{1,3}(\\.[0-9]{1,3}){3}",
    "\\w+@\\w+\\.(com|org)",
    "é{2,3}|ü",
    "[^a]b",
    "\\d\\D\\s\\S\\w\\W",
    "(?s).*x",
    ".+?x",
    "(a|b)*abb",
    "(?P<name>x|yy|)z",
    "[\\w-]+",
    "[^\\W\\d]",
    "日本?",
    "a{0}b",
    "[😀-😎]x",
    "((a?){3}){2}",
    "[^\\s\\S]|b",
    "",
]
WALKED = sorted({*range(128), *"éü日本😀".encode()})
TEXT = st.text(st.sampled_from("abcxyz019. @é ü日本😀😅\n-_foo"), max_size=8)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def run(automaton: Automaton, text: bytes) -> int:
    state = 0
    for byte in text:
        state = automaton.next(state, byte) if state != DEAD else DEAD
    return state


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PATTERNS), TEXT)
@example("[^\\s\\S]|b", "b")
def test_an_automaton_takes_what_re_takes(pattern: str, text: str) -> None:
    automaton = Automaton(pattern)
    state = run(automaton, text.encode())
    assert (state != DEAD and automaton.ends(state)) == bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_state_is_without_a_way_to_a_match(pattern: str) -> None:
    automaton, before = Automaton(pattern), dict[int, set[int]]()
    left, seen = [0], {0}
    while left:
        state = left.pop()
        following = {automaton.next(state, byte) for byte in WALKED} - {DEAD}
        others = (automaton.next(state, byte) for byte in range(0x80, 0x100))
        for after in following or {next((one for one in others if one != DEAD), state)}:
            before.setdefault(after, set()).add(state)
            if after not in seen:
                seen.add(after)
                left.append(after)
    left = [state for state in seen if automaton.ends(state)]
    ending = set(left)
    while left:
        for state in before.get(left.pop(), set()) - ending:
            ending.add(state)
            left.append(state)
    assert ending == seen


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("^a", "has an anchor; leave it out"),
        (r"(a)\1", "groupref, which is not regular"),
        ("a(?=b)", "assert, which is not regular"),
        ("(?i)a", "ignores case"),
        ("[", "is no regular expression"),
        (r"[^\s\S]", "matches no text"),
        ("(a{99}){999}", "needs over 20000 states"),
    ],
)
def test_what_cannot_be_held_to_is_refused(pattern: str, sentence: str, tokenizer: Tokenizer) -> None:
    sampler = Sampler(llama(tokenizer.vocabulary_size), tokenizer, slots=1, capacity=POSITIONS)
    with pytest.raises(ConfigError, match=sentence):
        sampler.submit(Request([1, 5], 5, regex=pattern))
    assert sampler.running == 0


def test_masks_name_exactly_the_tokens_that_go_on(tokenizer: Tokenizer) -> None:
    pattern = "(import|if) [a-z_]{1,8}(é|日)?\n"
    vocabulary = Vocabulary(tokenizer, tokenizer.vocabulary_size, frozenset({tokenizer.eos_id or 0}))
    grammar, automaton = Grammar(pattern, vocabulary), Automaton(pattern)
    pieces = token_bytes(tokenizer)
    for text in (b"", b"i", b"im", b"import ", b"if a_", b"if a\xc3", b"if \xc3"):
        state = 0
        for byte in text:
            state = grammar._automaton.next(state, byte)
        allowed = (~grammar.forbidden(state)).nonzero()[:, 0].tolist() if state != DEAD else []
        expected = [n for n, piece in enumerate(pieces) if piece and run(automaton, text + piece) != DEAD]
        assert allowed == expected, text
    assert (~grammar.forbidden(run(grammar._automaton, b"if a\n"))).nonzero().tolist() == [[tokenizer.eos_id]]


@settings(max_examples=10, deadline=None)
@given(
    pattern=st.sampled_from(
        ["[0-9]{2,4}-[a-f]+", "(yes|no|é日)!?", "\\w{3}( \\w{3}){1,2}", "x*", "[^a-z]{4}"]
    ),
    temperature=st.sampled_from([0.0, 1.0, 5.0]),
    seed=st.integers(0, 99),
)
def test_completions_match(
    models: list[object], tokenizer: Tokenizer, pattern: str, temperature: float, seed: int
) -> None:
    for model in models:
        sampler = Sampler(model, tokenizer, slots=3, capacity=POSITIONS)
        for row in range(4):
            regex = None if row == 2 else pattern
            sampler.submit(Request([1, 5 + row], 30, Sampling(temperature), seed + row, regex=regex))
        while sampler.running:
            for drawn in sampler.step():
                done = drawn.completion
                if done is None or drawn.request == 2:
                    continue
                if done.finish_reason == "stop":
                    assert re.fullmatch(pattern, done.text), done
                    assert done.ids[-1] == tokenizer.eos_id
                else:
                    pieces = b"".join(token_bytes(tokenizer)[token] for token in done.ids)
                    assert run(Automaton(pattern), pieces) != DEAD
                assert max(done.sampling_logprobs) <= 0


@pytest.fixture(scope="module")
def models(tokenizer: Tokenizer) -> list[object]:
    return [llama(tokenizer.vocabulary_size).eval(), mhc(tokenizer.vocabulary_size).eval()]


def test_byte_level_tokenizers_made_elsewhere_are_bytes(tmp_path: Path) -> None:
    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet)
    backend.train_from_iterator([Path(re.__file__).read_text()], trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(tmp_path / "bytes")
    tokenizer = Tokenizer.load(tmp_path / "bytes")
    pieces, text = token_bytes(tokenizer), "naïve 日本 text\n\t😀"
    assert b"".join(pieces[token] for token in tokenizer.encode(text)) == text.encode()
    assert pieces[tokenizer.eos_id or 0] == b""
    sampler = Sampler(llama(400).eval(), tokenizer, slots=1, capacity=POSITIONS)
    sampler.submit(Request([5, 6], 40, Sampling(3.0), 1, regex="[é日]{2,3}\\."))
    while sampler.running:
        last = sampler.step()[-1].completion
    assert last is not None and re.fullmatch("[é日]{2,3}\\.", last.text)


def test_tokens_that_are_no_bytes_are_refused(tmp_path: Path) -> None:
    backend = Backend(BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.train_from_iterator(["some words"], trainers.BpeTrainer(vocab_size=60, special_tokens=["<eos>"]))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(tmp_path / "words")
    with pytest.raises(ConfigError, match="bytes of their own"):
        token_bytes(Tokenizer.load(tmp_path / "words"))


def test_a_match_that_no_token_goes_on_with_is_said(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary(tokenizer, tokenizer.vocabulary_size, frozenset({2}))
    vocabulary.root.children = {ord("a"): vocabulary.root.children[ord("a")]}
    with pytest.raises(CodexRayError, match="no token of this model goes on"):
        Grammar("b", vocabulary).forbidden(0)
