"""Costs: every event that costs is counted once."""

from promptfed.runs.ledger import Cost, cost_of

EVENTS = [
    {"event": "run_start"},
    {"event": "features", "image_encoder_calls": 100, "text_encoder_calls": 7, "seconds": 5.0},
    {"event": "evaluation", "stage": "zero_shot", "seconds": 0.5, "image_encoder_calls": 0, "text_encoder_calls": 12},
    *(
        {"event": "client", "stage": "promptfl", "round": 1, "client": c, "bytes_up": 10, "bytes_down": 20,
         "seconds": 0.25, "image_encoder_calls": 1, "text_encoder_calls": 3}
        for c in (0, 1)
    ),
    {"event": "sum", "stage": "promptfl", "round": 1, "client": 0, "bytes_up": 300, "bytes_down": 400},
    {"event": "round", "stage": "promptfl", "round": 1, "bytes_up": 320, "bytes_down": 440, "seconds": 0.5},
    {"event": "validation", "stage": "promptfl", "round": 1, "seconds": 1.0, "text_encoder_calls": 5},
    {"event": "evaluation", "stage": "promptfl", "seconds": None, "text_encoder_calls": 4},
]  # fmt: skip


def test_whole_run_counts_clients_once() -> None:
    assert cost_of(EVENTS) == Cost(
        bytes_up=320, bytes_down=440, seconds=7.0, image_encoder_calls=102, text_encoder_calls=34
    )


def test_one_stage_leaves_out_the_others_and_the_shared_features() -> None:
    assert cost_of(EVENTS, "promptfl") == Cost(
        bytes_up=320, bytes_down=440, seconds=1.5, image_encoder_calls=2, text_encoder_calls=15
    )
    assert cost_of(EVENTS, "zero_shot") == Cost(
        bytes_up=0, bytes_down=0, seconds=0.5, image_encoder_calls=0, text_encoder_calls=12
    )
    assert cost_of(EVENTS, "never ran") == Cost()


def test_nothing_costs_nothing() -> None:
    assert cost_of([]) == Cost()
    assert Cost(bytes_up=1, bytes_down=2, seconds=3.0, image_encoder_calls=4, text_encoder_calls=5) + Cost() == Cost(
        bytes_up=1, bytes_down=2, seconds=3.0, image_encoder_calls=4, text_encoder_calls=5
    )
