"""Chat templates: a model's own Jinja source, run in a sandbox, within limits.

The names that templates rely on are those of transformers' `apply_chat_template` (raise_exception, strftime_now,
tojson without HTML escapes, break and continue, the generation tag, trimmed blocks), and it renders alike.

What is bounded, in this process: the source (1 MiB); the output (4 MiB) and every string that an operator, filter or
method makes on the way (the same); integer powers and products (64 bits); `range` (100,000); processor time, looked at
on every turn of a loop and every call (250 ms); recursion, by the interpreter. The template sees copies of plain data
only. What is not bounded: the time to compile a source under 1 MiB; a single operation that is slow (comparing
lists that share parts many levels deep, say); the sum of many strings under the limit, but for the time to make them.
A server that renders templates of strangers should do it in a process that it can kill.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import wraps
from typing import Any

from . import template_limits as limits
from .errors import TemplateError, shorten

SOURCE_BYTES = 1 << 20
CPU_SECONDS = 0.25
_WIDTH = 10_000  # of padding and indents
# Filters that chat templates do not need, and that cost time or memory, or are not reproducible.
_REMOVED = ("pprint", "urlize", "wordwrap", "xmlattr", "random", "filesizeformat", "striptags")
# Filters that make text of any value.
_TO_TEXT = (
    *("string", "upper", "lower", "title", "capitalize", "trim", "escape", "e", "forceescape", "truncate"),
    *("wordcount", "urlencode", "safe"),
)
# Arguments of transformers' method that are no variables of a template, and names that are ours to give.
_RESERVED = frozenset(
    (
        *("messages", "conversation", "chat_template", "tokenize", "padding", "truncation", "max_length"),
        *("return_tensors", "return_dict", "tokenizer_kwargs", "return_assistant_tokens_mask"),
        *("continue_final_message", "sanitize_control_tokens"),
    )
)


Message = Mapping[str, Any]


class ChatTemplate:
    """A compiled template. `name` is what errors call it; `cpu_seconds` the limit of one rendering."""

    def __init__(self, source: str, name: str = "chat template", cpu_seconds: float = CPU_SECONDS) -> None:
        """Raises TemplateError when `source` is too long or is not a template."""
        self.name = name
        self.source = source
        self._budget = _Budget(cpu_seconds)
        if len(source.encode("utf-8", "surrogatepass")) > SOURCE_BYTES:
            raise TemplateError(f"{name}: over the limit of {SOURCE_BYTES} bytes")
        self._environment = _environment(self._budget)
        with self._errors():
            self._template = self._environment.from_string(source)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text for `messages`. `variables` are seen by the template beside messages, tools and the flag.

        Raises TypeError for arguments of the wrong kind; TemplateError for all that goes wrong within.
        """
        for name in variables:
            if name in _RESERVED:
                raise TypeError(f"{name!r} is no variable of a chat template")
        if isinstance(messages, (str, Mapping)) or not all(isinstance(message, Mapping) for message in messages):
            raise TypeError("messages must be a list of objects, each with role and content")
        given = {
            **{name: _plain(value) for name, value in variables.items()},
            # As transformers does: a null field is an absent one.
            "messages": [_plain({k: v for k, v in message.items() if v is not None}) for message in messages],
            "tools": None if tools is None else [_plain(tool) for tool in tools],
            "add_generation_prompt": add_generation_prompt,
        }
        pieces, length = [], 0
        with self._errors(), self._budget:
            for piece in self._template.generate(given):
                length += len(piece)
                if length > limits.OUTPUT_CHARACTERS:
                    raise TemplateError(f"makes over {limits.OUTPUT_CHARACTERS} characters")
                pieces.append(piece)
        return "".join(pieces)

    def _errors(self) -> _Errors:
        return _Errors(self.name)


class _Errors:
    """Turns whatever a template runs into, an endless recursion included, into a TemplateError with its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            line = getattr(error, "lineno", None)
            where = f" (line {line})" if line else ""
            what = "" if isinstance(error, TemplateError) or not str(error) else f"{type(error).__name__}: "
            raise TemplateError(f"{self.name}{where}: {what}{shorten(str(error) or type(error).__name__)}") from None


class _Budget:
    """Processor time of one rendering, per thread: two threads may render the same template."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._local = threading.local()

    def __enter__(self) -> None:
        self._local.deadline = time.thread_time() + self.seconds

    def __exit__(self, *_: Any) -> None:
        self._local.deadline = None

    def tick(self) -> None:
        deadline = getattr(self._local, "deadline", None)
        if deadline is not None and time.thread_time() > deadline:
            raise TemplateError(f"takes over {self.seconds * 1000:.0f} ms of processor time")

    def over(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.tick()
            yield value


def _plain(value: Any) -> Any:
    """A deep copy in plain JSON types: objects with methods of their own stay outside the sandbox."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if callable(getattr(value, "model_dump", None)):
        return _plain(value.model_dump())
    raise TypeError(f"a chat template can be given plain values only, not {type(value).__name__}")


def _filters(environment: Any, budget: _Budget) -> dict[str, Callable[..., Any]]:
    """The filters that differ from Jinja's: tojson, and those that need a bound."""
    original = dict(environment.filters)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        if (len(indent) if isinstance(indent, str) else indent or 0) > 64:
            raise TemplateError("tojson with an indent over 64")
        limits.check_expansion(value)
        text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        limits.bounded(len(text))
        return text

    def guarded(name: str, check: Callable[..., None]) -> Callable[..., Any]:
        @wraps(original[name])  # keeps the marks by which Jinja passes its context
        def run(*args: Any, **kwargs: Any) -> Any:
            budget.tick()
            limits.check_expansion(*args, *kwargs.values())
            check([value for value in args if isinstance(value, (str, int))], kwargs)
            return original[name](*args, **kwargs)

        return run

    def widths(values: list[Any], kwargs: dict[str, Any]) -> None:
        numbers = [value for value in (*values, *kwargs.values()) if isinstance(value, int)]
        texts = [value for value in (*values[1:], *kwargs.values()) if isinstance(value, str)]
        if any(abs(number) > _WIDTH for number in numbers) or any(len(text) > _WIDTH for text in texts):
            raise TemplateError(f"pads or indents by over {_WIDTH}")
        # One indent for each line of the text.
        limits.bounded(values[0].count("\n") * max(numbers, default=4) if values and isinstance(values[0], str) else 0)

    def replaces(values: list[Any], kwargs: dict[str, Any]) -> None:
        texts = [value for value in (*values, *kwargs.values()) if isinstance(value, str)]
        if len(texts) >= 3:
            limits.bounded(limits.replaced(*texts[:3]))

    def formats(values: list[Any], kwargs: dict[str, Any]) -> None:
        if values and isinstance(values[0], str):
            limits.check_format(values[0])

    @wraps(original["join"])
    def join(context: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> Any:
        def counted() -> Iterator[Any]:
            total = 0
            for item in budget.over(value):
                total += limits.length(item) + len(d)
                limits.bounded(total)
                limits.check_expansion(item)
                yield item

        return original["join"](context, counted(), d, attribute)

    def nothing(values: list[Any], kwargs: dict[str, Any]) -> None:
        pass

    checks = dict.fromkeys(_TO_TEXT, nothing)
    checks |= {"center": widths, "indent": widths, "batch": widths, "slice": widths}
    checks |= {"replace": replaces, "format": formats}
    return {"tojson": tojson, "join": join, **{name: guarded(name, check) for name, check in checks.items()}}


def _classes(budget: _Budget) -> tuple[Any, Any, Any]:
    """What is ours of Jinja's kinds of things: the sandbox, the generation tag, the namespace."""
    import jinja2
    from jinja2 import ext, nodes
    from jinja2.compiler import CodeGenerator
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generator(CodeGenerator):
        """Concatenation goes through the environment, which may refuse."""

        def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802 (Jinja's name)
            self.write("environment.concatenate((")
            for item in node.nodes:
                self.visit(item, frame)
                self.write(", ")
            self.write("))")

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("+", "*", "**", "%"))
        code_generator_class = Generator

        def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
            tree = super()._parse(source, name, filename)
            for loop in tree.find_all(nodes.For):
                loop.iter = nodes.Call(nodes.EnvironmentAttribute("ticking"), [loop.iter], [], None, None)
            return tree

        def ticking(self, values: Any) -> Any:
            return values if isinstance(values, jinja2.Undefined) else _Ticking(values, budget)

        def concatenate(self, values: tuple[Any, ...]) -> str:
            limits.bounded(sum(limits.length(value) for value in values))
            limits.check_expansion(*values)
            return "".join(map(str, values))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            limits.check_operator(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            budget.tick()
            limits.check_method(getattr(function, "__wrapped__", function), args, kwargs)
            return super().call(context, function, *args, **kwargs)

    class Generation(ext.Extension):
        """`{% generation %}` marks what the model wrote; for rendering it is a scope."""

        tags = {"generation"}  # noqa: RUF012 (Jinja's name and type)

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class SafeNamespace(Namespace):
        """No underscored names: Python gives some of them a meaning."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            values = dict(*args[1:], **kwargs)
            Namespace.__init__(args[0])
            for name, value in values.items():
                args[0][name] = value

        def __setitem__(self, name: str, value: Any) -> None:
            if str(name).startswith("_"):
                raise SecurityError(f"namespace attribute {name!r} starts with an underscore")
            super().__setitem__(name, value)

    return Sandbox, Generation, SafeNamespace


def _environment(budget: _Budget) -> Any:
    """The Jinja environment of one template. Jinja is imported here and above: `import lanewise` does not need it."""
    import jinja2
    from jinja2 import ext

    sandbox, generation, namespace = _classes(budget)

    def finalize(value: Any) -> Any:
        limits.check_expansion(value)
        return value

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[ext.loopcontrols, generation],
        optimized=False,  # it would run filters while compiling
        finalize=finalize,
        cache_size=0,
    )
    environment.filters.update(_filters(environment, budget))
    for name in _REMOVED:
        environment.filters.pop(name, None)
    environment.globals.pop("lipsum", None)
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=lambda format: datetime.now().strftime(format),
        namespace=namespace,
        dict=lambda *args, **kwargs: dict(*args, **kwargs),
    )
    return environment


class _Ticking:
    """An iterable of a loop, which looks at the clock on each turn; as long as the original, where that is known."""

    def __init__(self, values: Iterable[Any], budget: _Budget) -> None:
        self._values = values
        self._budget = budget

    def __iter__(self) -> Iterator[Any]:
        return self._budget.over(self._values)

    def __len__(self) -> int:
        return len(self._values)  # type: ignore[arg-type]
