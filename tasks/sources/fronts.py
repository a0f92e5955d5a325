"""Made-up weather: stations in a row from west to east, which fronts cross one after the other.

Temperature and pressure of each are a daily cycle, an autoregressive process of the station's own, and the fronts. What
comes is known from the station in the west, ``LAG`` hours before: neighbours help by construction.
"""

from __future__ import annotations

import numpy as np

from promptfed.seeding import numpy_stream
from promptfed.tasks.sources.stations import Station

STATIONS, DAYS, LAG = 8, 150, 5
"""Stations, days, and hours that a front needs from one station to the next."""
VARIABLES = ("temperature", "pressure")
GAP, FADE = 40, 18
"""Mean hours between two fronts, and hours after which a front's effect is a third of what it was."""
FRONT, OWN, SWING = 1.4, 0.35, 0.8
"""Sizes of the fronts, of a station's own process and of the daily cycle."""
CHANGE = 0.15
"""How much a front changes from one station to the next, by this logarithmic deviation."""


def stations(seed: int) -> list[Station]:
    """Return the stations, whose weather depends on ``seed`` alone."""
    draw = numpy_stream(seed, "fronts")
    hours, lead = DAYS * 24, STATIONS * LAG
    strengths, place = np.zeros(hours + lead), 0.0
    while (place := place + draw.exponential(GAP)) < len(strengths):
        strengths[int(place)] += draw.choice([-1.0, 1.0]) * draw.uniform(0.6, 1.4)
    clock = 2 * np.pi * np.arange(hours) / 24
    made = []
    for number in range(STATIONS):
        effect = np.zeros(len(strengths))
        for hour in range(1, len(effect)):
            effect[hour] = effect[hour - 1] * np.exp(-1 / FADE) + strengths[hour]
        front = FRONT * effect[lead - number * LAG : lead - number * LAG + hours]
        strengths = strengths * np.exp(CHANGE * draw.standard_normal(len(strengths)))
        phase, swing = draw.uniform(-0.3, 0.3), SWING * draw.uniform(0.7, 1.3)
        day = swing * (np.sin(clock - np.pi / 2 + phase) + 0.35 * np.sin(2 * clock + 1.0 + phase))
        temperature = 12 + 4 * (day - front + OWN * _process(draw, 0.9, hours))
        pressure = 1013 + 6 * (0.25 * day + front + OWN * _process(draw, 0.95, hours))
        values = np.stack([temperature, pressure], 1).astype(np.float64)
        made.append(Station(f"station {number + 1}", VARIABLES, values))
    return made


def _process(draw: np.random.Generator, memory: float, steps: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return an autoregressive process of deviation 1."""
    noise, values = draw.standard_normal(steps), np.zeros(steps)
    values[0] = noise[0]
    for step in range(1, steps):
        values[step] = memory * values[step - 1] + np.sqrt(1 - memory**2) * noise[step]
    return values
