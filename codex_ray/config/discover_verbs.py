"""The verbs that search one problem with a model that learns while it searches."""

from __future__ import annotations

from codex_ray.config.verb import Verb

DISCOVER_VERBS = (
    Verb(
        name="discover",
        settings="codex_ray.config.discover:Discover",
        function="codex_ray.discover.run:discover",
        path="problem model",
        summary="train a model on one problem while it solves it, and keep the best solution",
        teaches=(
            "Samples attempts from the best solutions so far, grades each with the problem's verifier, keeps "
            "the best in an archive and trains the model towards what was best, step after step "
            "(TTT-Discover). Writes a run folder with solution.json: the best solution, what it was made of "
            "and its certificate. Ctrl-C writes a checkpoint; resume=auto goes on to the same end."
        ),
        examples=(
            ("discover erdos_min_overlap runs/policy name=search", "Erdős's minimum overlap, all weights"),
            (
                "discover circle_packing_26 Qwen3-8B lora.rank=32 chat=true",
                "26 circles, adapters on a chat model",
            ),
            (
                "discover mine.problems.Knapsack runs/policy learn.objective=none",
                "a problem of yours, without training",
            ),
        ),
    ),
    Verb(
        name="discover verify",
        settings="codex_ray.config.discover:VerifySolution",
        function="codex_ray.discover.verify_solution:verify",
        path="file",
        summary="grade a solution's file alone, computing everything again",
        teaches=(
            "Reads a solution.json, a run's or anybody's, and grades it with its problem's verifier, exactly "
            "where the mathematics allows. What the file says of itself does not count, nor can it choose "
            "what runs here: programs run in the sandbox, and a class or command of yours is named."
        ),
        examples=(
            ("discover verify runs/search/solution.json", "what a run has found"),
            ("discover verify stranger.json problem=erdos_min_overlap", "only if it is of this problem"),
            (
                "discover verify s.json problem=command score='python score.py {solution}'",
                "by a command of yours",
            ),
        ),
    ),
    Verb(
        name="discover compare",
        settings="codex_ray.config.discover:CompareSearches",
        function="codex_ray.discover.compare:compare",
        path="names...",
        summary="one report of several searches: what each found after how many rollouts",
        teaches=(
            "Draws the best figure against rollouts, with what is published as lines, and lists what each "
            "run found, when, and by which settings they differ. All must be of one problem."
        ),
        examples=(
            ("discover compare runs/first runs/second", "two runs"),
            ("discover compare first second output=both.html", "by name, in a file of your own"),
            ("discover compare full expected untrained runs=ablation", "three runs of another folder"),
        ),
    ),
    Verb(
        name="discover ablation",
        settings="codex_ray.config.discover:Ablation",
        function="codex_ray.discover.ablation:ablation",
        path="problem model",
        summary="search in several ways, over a grid and seeds; test the differences",
        teaches=(
            "Runs every arm at every cell of a grid with some seeds, then each arm's best cell with more, "
            "from the same weights and with the same seeds, and prints the whole grid and paired tests of "
            "the first arm against each other one. What is done is not done again: interrupt it and go on "
            "when you like."
        ),
        examples=(
            ("discover ablation erdos_min_overlap runs/policy name=table", "four arms, eight seeds"),
            (
                "discover ablation erdos_min_overlap runs/policy 'shapings=[0.1,0.3,1]'",
                "the same over three strengths of shaping",
            ),
            (
                "discover ablation erdos_min_overlap runs/policy seeds=2 grid_seeds=1 train.steps=10",
                "a short look",
            ),
        ),
    ),
    Verb(
        name="discover programs",
        settings="codex_ray.config.discover:Programs",
        function="codex_ray.discover.programs:programs",
        path="problem",
        summary="write random operator programs as text, to pretrain a small policy on",
        teaches=(
            "Searches a problem with programs drawn at random and writes what was started from, the program "
            "and what it did, a line each. A model that is pretrained on these lines writes valid programs, "
            "all alike likely; discover then teaches it which are good."
        ),
        examples=(
            ("discover programs erdos_min_overlap output=programs.jsonl", "20,000 programs"),
            ("discover programs circle_packing_26 count=5000", "another problem, fewer"),
            ("discover programs erdos_min_overlap 'options={steps: 24}'", "coarser step functions"),
        ),
    ),
)
