"""Chat templates: the golden renderings of transformers, its environment's habits, and what the sandbox must stop."""

# ruff: noqa: E501 (tables of cases, and facts that belong together)

from __future__ import annotations

import contextlib
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import lanewise.chat_template as module
from lanewise.chat_template import ChatTemplate
from lanewise.errors import LoadError, TemplateError
from lanewise.tokenizer import Tokenizer
from shared import needs_shared, shared

pytest.importorskip("jinja2")

USER = [{"role": "user", "content": "Hello"}]


def render(source: str, messages: Any = USER, **more: Any) -> str:
    return ChatTemplate(source).render(messages, **more)


@needs_shared
def test_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = json.loads(shared("chat_templates", "golden.json").read_text())
    now = datetime.fromisoformat(golden["now"])
    monkeypatch.setattr(module, "datetime", type("Clock", (), {"now": staticmethod(lambda: now)}))
    checked = 0
    for model, renderings in golden["rendered"].items():
        template = ChatTemplate(shared("chat_templates", f"{model}.jinja").read_text())
        for case, expected in renderings.items():
            assert template.render(**{**golden["variables"], **golden["cases"][case]}) == expected, (model, case)
            checked += 1
    assert checked >= 20


@needs_shared
def test_a_real_template_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    folder = shared("tokenizers", "minimind")
    own, reference = Tokenizer(folder), transformers.AutoTokenizer.from_pretrained(str(folder))
    cases = json.loads(shared("chat_templates", "golden.json").read_text())["cases"]
    for case in cases.values():
        arguments = {"add_generation_prompt": True, **case}
        messages = arguments.pop("messages")
        expected = reference.apply_chat_template(messages, tokenize=False, **arguments)
        assert own.apply_chat_template(messages, **arguments) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n", "Hello\n"),
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02"),
        ("{{ {'a': '<é>&\"'} | tojson }}", '{"a": "<é>&\\""}'),
        ("{{ [1, {'b': 2, 'a': 1}] | tojson(indent=1, sort_keys=true) }}", '[\n 1,\n {\n  "a": 1,\n  "b": 2\n }\n]'),
        ("{% generation %}{% set x = 1 %}a{{ x }}{% endgeneration %}{{ x }}", "a1"),
        ("{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6"),
        ("{{ missing }}|{{ missing is defined }}|{{ messages[0].missing }}", "|False|"),
        ("{{ dict(a=1).a }}{{ 'x' * 3 }}{{ 2 ** 10 }}{{ '%s-%d' % ('a', 5) }}{{ '{}'.format(7) }}", "1xxx1024a-57"),
        ("{{ 'a' ~ 1 ~ none }}{{ messages[0]['content'][1:3] }}{{ ' x '.strip() }}{{ 'a,b'.split(',')[1] }}", "a1Noneelxb"),
        ("{% macro f(n) %}{% if n %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "321"),
        ("{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }};{% endfor %}", "1False3;2False31;3True32;"),
        ("{% for i in [3, 4] if i > 3 %}{{ i }}{{ loop.length }}{% else %}none{% endfor %}{% for i in missing %}{% else %}e{% endfor %}", "41e"),
        ("{% for k, v in {'a': 1}.items() recursive %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{{ ['b', 'a'] | sort | join(', ') }}{{ messages | map(attribute='role') | list }}", "a, b['user']"),
        ("{{ 'a\nb' | indent(2) }}|{{ 'x' | center(5) }}|{{ 'aa' | replace('a', 'bc') }}|{{ '%03d' | format(7) }}", "a\n  b|  x  |bcbc|007"),
    ],
)  # fmt: skip
def test_as_in_transformers(source: str, expected: str) -> None:
    assert render(source) == expected
    try:
        from transformers.utils.chat_template_utils import render_jinja_template
    except ImportError:
        return
    assert render_jinja_template([USER], chat_template=source)[0] == [expected]


ESCAPES = [
    # CVE-2024-34359 and its variants
    "{% for x in ().__class__.__base__.__subclasses__() %}{% if 'warning' in x.__name__ %}{{ x()._module.__builtins__['__import__']('os').popen('id').read() }}{% endif %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['mro']() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__['os'] }}",
    "{{ namespace.__init__.__globals__['os'] }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ messages|attr('__class__')|attr('__base__')|attr('__subclasses__')() }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f')|attr('mro') }}{{ ''['\\u005f_class__'].mro() }}",
    "{{ messages['\\x5f\\x5fclass\\x5f\\x5f'].mro() }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{a.__class__}'.format_map({'a': messages}) }}",
    "{% set f = '{0.__class__.__init__.__globals__}'.format %}{{ f(messages) }}",
    "{{ ''.__getitem__.__self__.__class__ }}{{ messages.__getitem__(0) }}",
    "{{ ''.format.__self__.__class__ }}{{ ''.join.__class__ }}{{ messages.__class__ }}",
    "{{ strftime_now.__globals__['json'] }}",
    "{{ raise_exception.__code__.co_consts }}",
    "{{ dict.__init__.__globals__['json'] }}",
    "{% set ns = namespace(__class__=1) %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ namespace(**{'__class__': 5}) }}",
    "{{ (messages | map('attr', '__class__') | list)[0].mro() }}",
    "{{ messages | map(attribute='__class__.__mro__.0') | list | first | attr('mro') }}{{ x.y.z }}",
]  # fmt: skip


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_are_refused(source: str) -> None:
    """An error, or nothing at all: an unsafe attribute reads as undefined, and prints as nothing until it is used."""
    with contextlib.suppress(TemplateError):
        assert render(source) == ""


LAUGHS = "{% set ns = namespace(x=['ha']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
COSTLY = {
    "range": "{% for i in range(10**9) %}x{% endfor %}",
    "range list": "{{ range(1000000000) | list | length }}",
    "nested loops": "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
    "nested loops with output": "{% for i in range(10000) %}{% for j in range(10000) %}x{% endfor %}{% endfor %}",
    "repeat": "{{ 'a' * 10**9 }}",
    "repeat list": "{{ ([0] * 1000000000) | length }}",
    "repeat reversed": "{{ 1000000000 * 'a' }}",
    "power": "{{ 2 ** 10 ** 7 }}",
    "power of a variable": "{% set n = 10000000 %}{{ 3 ** n }}",
    "doubling by plus": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "doubling by tilde": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "doubling lists": "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
    "squaring": "{% set ns = namespace(x=10) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "doubling by replace": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
    "doubling by the replace filter": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x|replace('a', 'aa') %}{% endfor %}",
    "doubling by join": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}",
    "doubling by the join method": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ''.join([ns.x, ns.x]) %}{% endfor %}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "indent": "{{ 'a\nb' | indent(1000000000) }}",
    "indent by keyword": "{{ 'a\nb' | indent(width=1000000000) }}",
    "center": "{{ 'a' | center(1000000000) }}",
    "center method": "{{ 'a'.center(1000000000) }}",
    "zfill method": "{{ 'a'.zfill(1000000000) }}",
    "ljust method by map": "{{ ['a'] | map('center', 1000000000) | list | length }}",
    "expandtabs": "{{ '\t'.expandtabs(1000000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "format method": "{{ '{:>1000000000}'.format(1) }}",
    "format method nested": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "tojson indent": "{{ [1] | tojson(indent=1000000000) }}",
    "batch": "{{ [1] | batch(1000000000, 0) | list | length }}",
    "slice": "{{ [1] | slice(1000000000) | list | length }}",
    "laughs": LAUGHS + "{{ ns.x }}",
    "laughs in json": LAUGHS + "{{ ns.x | tojson }}",
    "laughs by tilde": LAUGHS + "{{ 'a' ~ ns.x }}",
    "laughs by string": LAUGHS + "{{ ns.x | string | length }}",
    "laughs by upper": LAUGHS + "{{ ns.x | upper | length }}",
    "laughs by join": LAUGHS + "{{ [ns.x] | join | length }}",
    "laughs by percent": LAUGHS + "{{ ('%s' % [ns.x]) | length }}",
    "laughs by format": LAUGHS + "{{ '{}'.format(ns.x) | length }}",
    "pprint": "{{ messages | pprint }}",
    "lipsum": "{{ lipsum(n=1000000) }}",
}  # fmt: skip


@pytest.mark.parametrize("name", COSTLY)
def test_costly_templates_are_stopped(name: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateError):
        render(COSTLY[name])
    assert time.process_time() - start < 2.0


OTHER = {
    "include": "{% include 'a' %}",
    "import": "{% import 'a' as b %}",
    "extends": "{% extends '/etc/passwd' %}",
    "unclosed block": "{% if true %}a",
    "unclosed expression": "{{ 1 ",
    "undefined called": "{{ missing() }}",
    "undefined attribute": "{{ missing.a }}",
    "division": "{{ 1 / 0 }}",
    "no loader": "{% from 'a' import b %}",
    "deep parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update(role='x') }}",
    "long": "{# " + "x" * (1 << 20) + " #}",
}


@pytest.mark.parametrize("name", OTHER)
def test_other_failures_are_template_errors(name: str) -> None:
    with pytest.raises(TemplateError):
        render(OTHER[name])


def test_raise_exception_gives_the_templates_own_words() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_output_limit_and_large_but_fair_output() -> None:
    big = [{"role": "user", "content": "x" * (1 << 20)}]
    assert len(render("{{ messages[0].content }}" * 3, big)) == 3 << 20
    with pytest.raises(TemplateError, match="characters"):
        render("{{ messages[0].content }}" * 5, big)
    with pytest.raises(TemplateError, match="characters"):
        render("{{ messages | tojson }}", big * 5)
    many = [{"role": "user", "content": f"message {i}"} for i in range(5000)]
    assert render("{% for m in messages %}{{ m.role ~ ': ' + m.content }}\n{% endfor %}", many).count("\n") == 5000


def test_messages_are_copied_and_nulls_dropped() -> None:
    messages = [{"role": "user", "content": "a", "tool_calls": None}]
    assert render("{{ messages[0].tool_calls is defined }}", messages) == "False"
    assert messages == [{"role": "user", "content": "a", "tool_calls": None}]

    class Odd:
        def wreck(self) -> str:
            return "wrecked"

    with pytest.raises(TypeError, match="Odd"):
        render("{{ messages[0].content.wreck() }}", [{"role": "user", "content": Odd()}])


def test_arguments() -> None:
    assert (
        render("{{ documents[0].title }}{{ tools }}{{ thinking }}", documents=[{"title": "t"}], thinking=True)
        == "tNoneTrue"
    )
    for name in ("tokenize", "return_dict", "max_length", "conversation", "chat_template"):
        with pytest.raises(TypeError, match=name):
            render("{{ 1 }}", **{name: 1})
    for wrong in ("text", {"role": "user"}, ["text"]):
        with pytest.raises(TypeError, match="messages"):
            render("{{ 1 }}", wrong)


def write_model(folder: Path, config: dict[str, Any]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"<unk>": 0, "a": 1, "<s>": 2}, unk_token="<unk>")
    tokenizers.Tokenizer(model).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_where_the_template_comes_from(tmp_path: Path) -> None:
    write_model(tmp_path, {"bos_token": "<s>", "chat_template": "{{ bos_token }}config"})
    assert Tokenizer(tmp_path).apply_chat_template(USER) == "<s>config"
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    write_model(tmp_path, {"chat_template": named})
    assert Tokenizer(tmp_path).apply_chat_template(USER) == "plain"
    assert Tokenizer(tmp_path).apply_chat_template(USER, tools=[{"name": "f"}]) == "tools"
    write_model(tmp_path, {"chat_template": [{"name": "rag", "template": ""}]})
    with pytest.raises(TemplateError, match="default"):
        Tokenizer(tmp_path).apply_chat_template(USER)
    (tmp_path / "chat_template.jinja").write_text("file {{ add_generation_prompt }}")
    assert Tokenizer(tmp_path).apply_chat_template(USER) == "file True"
    assert Tokenizer(tmp_path).apply_chat_template(USER, add_generation_prompt=False) == "file False"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(LoadError, match="UTF-8"):
        Tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("x" * ((1 << 20) + 1))
    with pytest.raises(LoadError, match="over the limit"):
        Tokenizer(tmp_path)
