"""``texts:NAME``: the small labelled texts that come with promptfed, for trying things."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from promptfed.errors import unknown_name
from promptfed.prompt_template import PromptTemplate
from promptfed.tasks.sources import tsv
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.tables import Columns

FOLDER = Path(__file__).parent.parent / "texts"
NAMES = ("reviews", "questions", "requests", "tools")


def source(name: str, columns: Columns) -> Source:
    """Return the bundled texts ``name``. Their domains are the thing reviewed or the recipient; tools have none.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in NAMES:
        raise unknown_name("bundled texts", name, NAMES)
    domain = "" if name == "tools" else "domain"
    return tsv.source(str(FOLDER / f"{name}.tsv"), replace(columns, domain=columns.domain or domain))


FORMS = {
    "reviews": PromptTemplate(
        template="{{ prompt }} {{ text }} It was",
        words={"positive": "great", "negative": "terrible"},
        descriptions={"positive": "The writer is pleased.", "negative": "The writer is disappointed."},
        prompts=("", "Is this review positive or negative?", "A review by a customer:", "What does the writer feel?"),
    ),
    "questions": PromptTemplate(
        template="{{ prompt }} Question: {{ text }}\nKind of answer:",
        descriptions={
            "person": "The name of a person.",
            "place": "The name of a place.",
            "number": "A number, a date or an amount.",
            "reason": "The reason or cause of something.",
            "definition": "What something means, a definition.",
        },
        prompts=("", "What kind of answer does this question ask for?", "The answer would be:", "Question:"),
    ),
    "requests": PromptTemplate(
        template="{{ prompt }} Message: {{ text }}\nThe customer wants:",
        words={"cancel": "cancellation", "account access": "access", "product advice": "advice"},
        descriptions={
            "cancel": "The customer wants to cancel.",
            "refund": "The customer wants money back.",
            "delivery": "The customer asks where something is that should have arrived.",
            "account access": "The customer cannot get into an account.",
            "product advice": "The customer asks which product to choose.",
            "complaint": "The customer complains about bad service.",
        },
        prompts=("", "What does this customer want?", "A message to customer service:", "Sort this message:"),
    ),
    "tools": PromptTemplate(
        template="{{ prompt }} Request: {{ text }}\nTool:",
        descriptions={
            "weather": "Forecasts and current weather for any place: temperature, rain, snow, wind and sun.",
            "calendar": "Keeps a calendar: adds, moves and cancels meetings and appointments, finds free slots.",
            "translator": "Translates words and texts from one language to another, such as German or Japanese.",
            "calculator": "Does arithmetic: sums, percentages, roots, averages, areas and units.",
            "flights": "Searches flights and fares of airlines, with connections, airports and departures.",
            "recipes": "Recipes and cooking advice: ingredients, oven temperatures, what to bake or cook.",
            "navigation": "Directions and routes by car, bike, bus or on foot, with traffic, roads and distances.",
            "currency": "Converts money between currencies at the exchange rate, such as euros, dollars or pounds.",
            "music": "Plays songs, albums and playlists, and knows who sings them.",
            "news": "Headlines and reports of the day from politics, sports and science.",
            "reminders": "Sets alarms, timers and reminders.",
            "shopping": "Finds products in shops, compares prices and offers, and fills the basket.",
            "restaurants": "Finds restaurants, cafes and bars, and books a table for dinner or lunch.",
            "fitness": "Plans workouts and tracks exercise, steps, running, heart rate and sleep.",
            "stocks": "Prices of shares, funds and bonds on the stock market, and a portfolio of them.",
            "dictionary": "Meaning, spelling, pronunciation, synonyms and origin of English words.",
            "email": "Reads, writes, sends, sorts and searches mail in the inbox.",
            "parcels": "Tracks packages and letters, and arranges delivery, returns and pick up by post or courier.",
            "films": "What to watch: movies and series, actors, directors, reviews and showings at the cinema.",
            "home": "Controls lights, heating, blinds, doors and appliances of a smart house.",
        },
        prompts=("", "Which tool serves this request?", "A request to an assistant:", "Choose the tool:"),
    ),
}
"""The template of each of them."""
