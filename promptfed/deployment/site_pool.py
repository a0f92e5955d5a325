"""The sites as the server sees them: who is connected, and a way to ask them all, whatever comes and goes meanwhile.

Flower's node numbers are new with every start of a node, so a site is known by the name that it gives itself in its
answer to ``Hello``. A site that goes away while it has a question is asked again when it is back, and so is one whose
answer is lost (promptfed.deployment.lost_answers): a process that was killed costs time and nothing else.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptfed.deployment import codec  # first: it says how to install what the next two need
from promptfed.deployment.class_names import agreed_names
from promptfed.deployment.codec import W
from promptfed.deployment.flower_errors import FAILED, GONE, why
from promptfed.deployment.known_sites import Holder
from promptfed.deployment.lost_answers import QUIET_SECONDS, LostAnswers, Ping
from promptfed.deployment.messages import Hello, HelloAnswer
from promptfed.deployment.parcels import unwrapped, wrapped
from promptfed.engines.base import LATE, ShouldStop, never
from promptfed.errors import DeploymentError

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid

log = logging.getLogger(__name__)

TYPES = {"Hello": "query.promptfed", "Prepare": "query.promptfed", "Train": "train.promptfed",
         "Evaluate": "evaluate.promptfed", "Finish": "query.promptfed", "Sum": "query.promptfed",
         "Ping": "query.promptfed"}  # fmt: skip
"""Kind of question -> Flower's type of message."""
ATTEMPTS = 3
"""How often one question is sent to a site whose node or process keeps ending, or whose answers get lost; and how often
a node is greeted whose process fails."""
ABSENT = "absent: not connected"
LOOK_SECONDS = 1.0
"""Between two looks at the nodes while answers are waited for, if these are looked for more often."""
GREET_AGAIN = 120.0
"""Seconds after which a greeting without an answer is sent once more: Flower drops an answer that it cannot deliver."""


@dataclass(frozen=True)
class SiteReply:
    """A site's answer.

    Attributes:
        content: The message; None without one.
        failure: Why there is no message, in one line.
        bytes_down: Bytes to the site, as Flower serialises them.
        bytes_up: Bytes from the site.
    """

    content: RecordDict | None
    failure: str
    bytes_down: int
    bytes_up: int

    def opened(self, kind: type[W]) -> codec.Envelope[W]:
        """Decode a message without prompts.

        Raises:
            DeploymentError: There is none, or it is an ``ErrorReply`` or of another kind, or holds a prompt.
        """
        if self.content is None:
            raise DeploymentError(self.failure)
        return codec.unpack(self.content, kind, most_bytes=0)


@dataclass(frozen=True)
class _Pending:
    """A question without an answer so far."""

    client: int
    node: int
    attempts: int
    at: float


class SitePool:
    """The connected sites: greet new nodes, ask questions and collect the answers.

    Attributes:
        grid: Flower's connection to the nodes.
        hello: The first question to a new node.
        patience: Seconds to wait for a site that has disconnected.
        poll: Seconds between two looks at the nodes.
        quiet: Seconds without an answer after which a site is asked whether it is done.
        say: Shows a line to the user.
        answers: Site -> its answer to ``hello``.
        holders: Site -> the owner of the name, also from an earlier process. A name belongs to its first user.
        on_holders: Is called when the owners change.
        problems: Node -> why it is left out.
    """

    def __init__(
        self,
        grid: Grid,
        hello: Hello,
        *,
        patience: float = 300.0,
        poll: float = 1.0,
        quiet: float = QUIET_SECONDS,
        say: Callable[[str], None] = log.info,
        holders: Mapping[str, Holder] | None = None,
        on_holders: Callable[[Mapping[str, Holder]], None] = lambda holders: None,
    ) -> None:
        self.grid, self.hello, self.patience, self.poll, self.quiet = grid, hello, patience, poll, quiet
        self.say = say
        self.answers: dict[str, HelloAnswer] = {}
        self.holders, self.on_holders = dict(holders or {}), on_holders
        self.problems: dict[int, str] = {}
        self._clients: dict[str, int] = {}
        self._nodes: dict[str, int] = {}
        self._greeting: dict[str, int] = {}
        self._greeting_times: dict[int, float] = {}
        self._failed_greetings = Counter[int]()
        self._met: set[int] = set()
        self._abandoned: set[int] = set()
        self._last_look = -LOOK_SECONDS

    # --------------------------------------------------------------------------------------------- who is there

    def gather(self, wanted: int, seconds: float) -> None:
        """Wait until ``wanted`` sites fit the run or ``seconds`` have passed. Then see ``answers`` and ``problems``."""
        end, last_count = time.monotonic() + seconds, -1
        while True:
            self._look()
            while messages := self._pull(list(self._greeting)):
                for message in messages:
                    self._handle_greeting(message)
            count = len(self.connected)
            if count != last_count:
                self.say(f"{count} of {wanted} sites are here: {', '.join(sorted(self.connected)) or 'none yet'}")
                last_count = count
            if (count >= wanted and not self._greeting) or time.monotonic() >= end:
                return
            time.sleep(self.poll)

    @property
    def connected(self) -> dict[str, int]:
        """Site -> its node, for the connected sites that fit the run."""
        return dict(self._nodes)

    def agree(self, names: Sequence[str]) -> None:
        """Fix the sites of the run: client k is the site ``names[k]``, and no other takes part."""
        self._clients = {name: client for client, name in enumerate(names)}
        for name in set(self._nodes) - set(names):
            self.say(f"{name} is not part of this run and is left out")
            del self._nodes[name]

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait for ``count`` sites of the run. Raise DeploymentError if fewer are connected after ``seconds``."""
        self._look()
        if len(self._nodes) < count:
            self.say(f"waiting for {count} sites, for {seconds:.0f} s at most")
            self.gather(count, seconds)
        if len(self._nodes) < count:
            raise DeploymentError(
                f"only {len(self._nodes)} of the {count} sites that are needed were here after {seconds:.0f} s; "
                "what is trained is saved: start the run again to go on"
            )

    # ---------------------------------------------------------------------------------------------- questions

    def ask(
        self,
        questions: Mapping[int, RecordDict],
        *,
        group: str,
        seconds: float | None = None,
        each: float | None = None,
        on_answer: Callable[[int, SiteReply], None] | None = None,
        should_stop: ShouldStop = never,
    ) -> dict[int, SiteReply]:
        """Ask clients and wait for their answers.

        Args:
            questions: Client -> its question.
            group: Flower's name for the messages of a round.
            seconds: The limit for all answers together; None sets no limit.
            each: The limit for each client, from its question on; None sets no limit.
            on_answer: Receives each answer as it comes.
            should_stop: Returns whether to stop asking and waiting.

        Returns:
            Client -> its answer, for all clients unless ``should_stop`` says so. The bytes down count every time that
            a question is sent.
        """
        answers: dict[int, SiteReply] = {}
        waiting, pending = dict.fromkeys(questions, 0), dict[str, _Pending]()
        missed: dict[int, float] = {}
        sends = dict.fromkeys(questions, 0)
        parcels = {client: wrapped(question) for client, question in questions.items()}
        sizes = {client: codec.wire_bytes(parcel) for client, parcel in parcels.items()}
        kinds = {client: codec.kind_of(question) for client, question in questions.items()}
        start_time = time.monotonic()

        def end(client: int, content: RecordDict | None, failure: str) -> None:
            up = codec.wire_bytes(content) if content is not None else 0
            content = None if content is None else unwrapped(content)
            answers[client] = SiteReply(content, failure, bytes_down=sizes[client] * sends[client], bytes_up=up)
            if on_answer is not None:
                on_answer(client, answers[client])

        def ask_again(entry: _Pending, why: str) -> None:
            if entry.attempts < ATTEMPTS:
                self.say(f"{self._name(entry.client)} {why}")
                waiting[entry.client] = entry.attempts
            else:
                end(entry.client, None, f"error: asked {ATTEMPTS} times, and no answer came")

        def on_wait(identity: str, passed: float) -> None:
            limit = "" if each or seconds else " (--client-seconds sets a limit)"
            words = f"has had its question for {passed:.0f} s: it may be at work, and is asked if it is done{limit}"
            self.say(f"{self._name(pending[identity].client)} {words}")

        lost_answers = LostAnswers(
            lambda node: self._push([(node, wrapped(codec.pack(Ping())), "Ping")], group)[0], on_wait, self.quiet
        )
        while True:
            if waiting or time.monotonic() - self._last_look >= min(LOOK_SECONDS, 10 * self.poll):
                self._look()
            self._recall(pending, waiting)
            for client in [] if should_stop() else self._send(parcels, kinds, waiting, pending, group):
                sends[client] += 1
            self._miss(waiting, missed, end)
            for message in self._pull([*pending, *self._greeting, *lost_answers.pings]):
                identity = message.metadata.reply_to_message_id
                if lost_answers.take(identity, is_answer=message.has_content()):
                    continue
                if identity in self._greeting:
                    self._handle_greeting(message)
                elif identity in pending:
                    entry = pending.pop(identity)
                    if message.has_content():
                        end(entry.client, message.content, "")
                    elif message.error.code in GONE | FAILED and entry.attempts < ATTEMPTS:
                        if is_gone := message.error.code in GONE:
                            self._forget(entry.client)
                        ask_again(entry, f"{'went away' if is_gone else 'failed and is asked again'}: {why(message)}")
                    else:
                        end(entry.client, None, f"error: {why(message)}")
            for identity in lost_answers.look({identity: entry.node for identity, entry in pending.items()}):
                ask_again(pending.pop(identity), "is done and its answer did not come: it is asked again")
            now = time.monotonic()
            for identity, entry in list(pending.items()):
                if each is not None and now - entry.at > each:
                    del pending[identity]
                    end(entry.client, None, LATE)
            if seconds is not None and now - start_time > seconds:
                for client in sorted(set(questions) - set(answers)):
                    end(client, None, LATE)
            if len(answers) == len(questions) or should_stop():
                return answers
            time.sleep(self.poll)

    # ------------------------------------------------------------------------------------------------ inside

    def _look(self) -> None:
        """Greet new nodes, and forget those that have disconnected."""
        online, self._last_look = set(self.grid.get_node_ids()), time.monotonic()
        for name, node in list(self._nodes.items()):
            if node not in online:
                self.say(f"{name} is gone")
                del self._nodes[name]
        self._met &= online
        for node in self._failed_greetings.keys() - online:
            del self._failed_greetings[node]
        now = time.monotonic()
        silent = {node for node in self._greeting.values() if now - self._greeting_times[node] >= GREET_AGAIN}
        if new := sorted(online - self._met | online & silent):
            hello = wrapped(codec.pack(self.hello))
            identities = self._push([(node, hello, "Hello") for node in new], "hello")
            self._greeting.update({i: node for i, node in zip(identities, new, strict=True) if i is not None})
            self._greeting_times.update(dict.fromkeys(new, now))
            self._met |= set(new)

    def _handle_greeting(self, message: Message) -> None:
        node = self._greeting.get(message.metadata.reply_to_message_id)
        if node is None:  # it was greeted twice, and the other answer is here
            return
        self._greeting = {identity: other for identity, other in self._greeting.items() if other != node}
        try:
            if not message.has_content():
                if message.error.code in FAILED:
                    self._failed_greetings[node] += 1
                if message.error.code in GONE | FAILED and self._failed_greetings[node] < ATTEMPTS:
                    self._met.discard(node)  # it is greeted again
                    return
                raise DeploymentError(why(message))
            answer = codec.unpack(unwrapped(message.content), HelloAnswer, most_bytes=0).words
        except DeploymentError as error:
            self.problems[node] = str(error)
            self.say(f"node {node} is left out: {error}")
            return
        del self._failed_greetings[node]
        name = answer.site.name
        if (strange := self._strange_class(answer)) is not None:
            self.problems[node] = f"{name} has a class '{strange}', which is not one of the agreed classes"
            self.say(f"{self.problems[node]}: left out")
            return
        if self._clients and name not in self._clients:
            self.say(f"{name} is not part of this run and is left out")
            return
        holder = self.holders.get(name)
        if holder is not None and not holder.is_shown_by(node, answer):
            self.problems[node] = f"node {node} calls itself {name}, which is the site of node {holder.node}"
            self.say(
                f"{self.problems[node]}: left out, as it shows neither that node's number nor the key in that site's "
                f'state-dir (if {name} lost its state-dir: start the run again with forget-sites="{name}")'
            )
            return
        if other := next((known for known, at in self._nodes.items() if at == node and known != name), ""):
            self.problems[node] = f"node {node} calls itself {name}, and was {other} before"
            self.say(f"{self.problems[node]}: left out")
            return
        if name in self._nodes:
            self.say(f"{name} is here under two nodes: the newer one counts")
        self.answers[name], self._nodes[name] = answer, node
        if holder != (owner := Holder.of(node, answer)):
            self.holders[name] = owner
            self.on_holders(self.holders)
        self._abandoned.discard(self._clients.get(name, -1))

    def _strange_class(self, answer: HelloAnswer) -> str | None:
        if self.hello.classes is None:
            return None
        names = agreed_names(answer.classes, self.hello.classes, merged=self.hello.merged)
        return next((name for name, one in names.items() if one is None), None)

    def _recall(self, pending: dict[str, _Pending], waiting: dict[int, int]) -> None:
        """Queue the questions again whose node no longer belongs to their site."""
        for identity, entry in list(pending.items()):
            if self._nodes.get(self._name(entry.client)) != entry.node:
                del pending[identity]
                waiting[entry.client] = 0

    def _send(
        self,
        parcels: Mapping[int, RecordDict],
        kinds: Mapping[int, str],
        waiting: dict[int, int],
        pending: dict[str, _Pending],
        group: str,
    ) -> list[int]:
        """Send the waiting questions to connected sites, all at once, and return the clients that were asked."""
        here = [
            (client, self._nodes[name]) for client in sorted(waiting) if (name := self._name(client)) in self._nodes
        ]
        identities = self._push([(node, parcels[client], kinds[client]) for client, node in here], group)
        messages = [(*each, identity) for each, identity in zip(here, identities, strict=False) if identity is not None]
        for client, node, identity in messages:
            pending[identity] = _Pending(client, node, waiting.pop(client) + 1, time.monotonic())
        return [client for client, *_ in messages]

    def _miss(
        self, waiting: dict[int, int], missed: dict[int, float], end: Callable[[int, RecordDict | None, str], None]
    ) -> None:
        """Give up on clients that are away for too long, and at once on those that were given up before."""
        now = time.monotonic()
        for client in list(waiting):
            since = missed.setdefault(client, now)
            hopeless = client in self._abandoned and not self._greeting  # the greeted node may be this one
            if hopeless or now - since >= self.patience:
                if client not in self._abandoned:
                    self.say(f"{self._name(client)} was away for {self.patience:.0f} s: the run goes on without it")
                self._abandoned.add(client)
                del waiting[client]
                end(client, None, ABSENT)
        for client in set(missed) - set(waiting):
            del missed[client]

    def _push(self, questions: Sequence[tuple[int, RecordDict, str]], group: str) -> list[str | None]:
        """Send to each node its question of a kind, and return the identities of the messages."""
        from flwr.app import Message

        messages = [Message(content, node, TYPES[kind], group_id=group) for node, content, kind in questions]
        return list(self.grid.push_messages(messages)) if messages else []

    def _pull(self, identities: Sequence[str]) -> list[Message]:
        return list(self.grid.pull_messages(identities)) if identities else []

    def _forget(self, client: int) -> None:
        """Have the node of the site greeted again before the next question."""
        node = self._nodes.pop(self._name(client), None)
        if node is not None:
            self._met.discard(node)

    def _name(self, client: int) -> str:
        return next((name for name, number in self._clients.items() if number == client), "")
