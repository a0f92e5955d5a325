"""`promptfed privacy plan`: what a private run would cost, before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from promptfed.commands import options
from promptfed.errors import ConfigError

if TYPE_CHECKING:
    from promptfed.privacy.expectations import Plan

LARGEST_PROMISE = 10
"""Epsilon above which the guarantee says little about anybody."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    privacy = typer.Typer(no_args_is_help=True, help="Plan runs with differential privacy.", rich_markup_mode=None)
    privacy.callback()(lambda: None)  # a group, though it has one command
    privacy.command("plan")(plan)
    app.add_typer(privacy, name="privacy")


def plan(
    clients: Annotated[int, typer.Option("--clients", min=2, max=10**9, help="All clients there are.", metavar="N")],
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100_000, help="Rounds of the run.", metavar="T")],
    participation: Annotated[
        float, typer.Option("--participation", help="Probability of a client to take part in a round.", metavar="Q")
    ] = 1.0,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="What may be spent: prints the noise it takes.", metavar="E")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option("--noise", help="Noise multiplier, noise over clip norm: prints what it spends.", metavar="Z"),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option("--delta", help="Chance of no protection, at most 1/(2N) [1/(100N), at most 0.001].", metavar="D"),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option("--size", min=1, max=10**9, help="Also for an update of so many values; repeatable.", metavar="N"),
    ] = None,
    quiet: Annotated[bool, options.quiet_option("noise multiplier, epsilon and delta")] = False,
    json: options.Json = False,
) -> None:
    """Say what noise an epsilon takes, or what a noise spends, and what is left of the prompt; nothing is trained.

    It is about central differential privacy of a client: whoever gets the prompt learns little of whether one client
    took part. Each client's change is clipped to a norm C, the server adds Gaussian noise of Z times C to the sum, and
    divides by the expected number of participants. The server is trusted.

    The size of an update is what a client sends: 4 context vectors of width 512 are 2,048 values.

    \b
    Examples:
      promptfed privacy plan --clients 200 --rounds 20 --epsilon 8
      promptfed privacy plan --clients 1000 --rounds 50 --participation 0.1 --epsilon 2 --delta 1e-5
      promptfed privacy plan --clients 1000 --rounds 50 --participation 0.1 --noise 0.8
      promptfed privacy plan --clients 10 --rounds 20 --epsilon 8 --size 40 --size 512
    """
    import json as as_json

    from promptfed.privacy.expectations import levers
    from promptfed.privacy.expectations import plan as plan_run

    if (epsilon is None) == (noise is None):
        raise ConfigError("say either --epsilon E, for the noise it takes, or --noise Z, for what it spends")
    made = plan_run(
        clients, rounds, participation, epsilon_limit=epsilon, multiplier=noise, delta=delta, sizes=size or ()
    )
    if json:
        typer.echo(as_json.dumps({**made.recorded(), "levers": list(levers(made))}, indent=2))
    elif quiet:
        typer.echo(f"{made.multiplier:g}\t{made.epsilon:.4g}\t{made.delta:g}")
    else:
        _show(made)


def _adaptive(plan: Plan) -> str:
    """Return what a clip that follows the clients' changes costs."""
    from promptfed.privacy.adaptive_clip import bit_noise, change_multiplier

    try:
        multiplier = change_multiplier(plan.multiplier, bit_noise(plan.participation * plan.clients))
    except ConfigError:
        return (
            f"privacy.clip=adaptive: not with so few clients in a round; it takes more than {10 * plan.multiplier:.4g}"
        )
    return f"privacy.clip=adaptive: the same epsilon with a noise multiplier of {multiplier:.5g} for the changes"


def _show(plan: Plan) -> None:
    from promptfed.commands.plain_tables import plain_table
    from promptfed.privacy.expectations import levers
    from promptfed.report.consoles import output

    console = output()
    console.print(f"noise multiplier {plan.multiplier:g}: epsilon {plan.epsilon:.3g} at delta {plan.delta:g}")
    if plan.epsilon > LARGEST_PROMISE:
        console.print(f"an epsilon above {LARGEST_PROMISE} is no promise to speak of")
    console.print(
        f"{plan.clients:,} clients, {plan.rounds:,} rounds, each client in a round with probability "
        f"{plan.participation:g}"
    )
    console.print(
        "protects: whether one client took part, with all it has (added or removed), from whoever gets the prompt; "
        "the server is trusted"
    )
    console.print(f"accountant: privacy-loss distributions; Renyi DP, a looser bound, says {plan.rdp:.3g}")
    if plan.claims_amplification:
        console.print(
            f"amplification is claimed: epsilon counts on secret coins, one for each client and round, and on nobody's "
            f"knowing who took part. Who does know faces epsilon {plan.unsampled:.3g}"
        )
    else:
        console.print("amplification is not claimed: everybody takes part, and who does is no secret")
    console.print(_adaptive(plan))
    table = plain_table()
    for column in ("values", "noise / signal", "clients for 1"):
        table.add_column(column, justify="right")
    table.add_column("what to expect of a round")
    for each in plan.expectations:
        table.add_row(f"{each.size:,}", f"{each.noise:.2g}", f"{each.clients_needed:,}", each.verdict)
    console.print()
    console.print(table)
    console.print(
        "\nThe signal of a round is the clip norm at most; the noise is the norm of what is added to the mean."
    )
    console.print("\nWhat helps, best first:")
    for words in levers(plan):
        console.print(f"- {words}")
