"""Configuration: what is accepted, what is refused and how it is explained."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Address, ConfigError, NodeConfig, load, parse_address
from cluster.config.bounds import bound_keys
from cluster.config.models import MODELS, SECTIONS
from hooks.configuration.capture import KEYS as CAPTURE_KEYS
from hooks.configuration.config import SECTION_KEYS, SHELL_KEYS, HooksConfig
from hooks.configuration.definition import HandlerDefinition
from hooks.configuration.keys import KEYS
from hooks.configuration.locate import key_lines, line_of

CONFIGS = Path(__file__).parents[2] / "configs"
MINIMAL = '[node]\nname = "a"\ndata_dir = "data"\n'


def _load(tmp_path: Path, text: str, **environment: str) -> NodeConfig:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return load(file, environment)


def _problems(tmp_path: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        _load(tmp_path, text, **environment)
    return [str(line).replace(f"{tmp_path}/", "") for line in refused.value.problems]


@pytest.mark.parametrize(
    "name",
    ["single", "three-node/a", "three-node/b", "three-node/c", "production"],
)
def test_shipped_configurations_are_valid(name: str) -> None:
    """Every file under configs/ loads as it stands."""
    config = load(CONFIGS / f"{name}.toml", {})
    assert config.node.data_dir.is_absolute()


def test_production_file_has_every_key_with_its_default() -> None:
    """configs/production.toml shows each key; those commented out show the default in force."""
    text = (CONFIGS / "production.toml").read_text()
    shown: dict[str, dict[str, Any]] = {}
    section = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[\[?([a-z.]+)\]\]?", line):
            section = header[1]
        elif pair := re.fullmatch(r"# (\w+ = .+)", line):
            shown.setdefault(section, {}).update(tomli.loads(pair[1]))
    written = tomli.loads(text)
    for table, key, default in bound_keys():
        assert shown[f"limits.{table}"].pop(key) == default, key
    assert not any(keys for section, keys in shown.items() if section.startswith("limits"))
    for name, model in MODELS.items():
        if name == "limits":
            continue
        assert set(model.model_fields) == set(written.get(name, {})) | set(shown.get(name, {}))
        for key, value in shown.get(name, {}).items():
            default = model.model_fields[key].get_default(call_default_factory=True)
            wanted = str(default) if isinstance(default, Address) else default
            assert (list(wanted) if isinstance(wanted, tuple) else wanted) == value, key
    _hooks_keys_are_shown(written["hooks"], shown)


def _hooks_keys_are_shown(written: dict[str, Any], shown: dict[str, dict[str, Any]]) -> None:
    assert set(SECTION_KEYS) == written.keys() | shown["hooks"].keys() | {"shell"}
    assert set(SHELL_KEYS) == set(shown["hooks.shell"])
    assert set(CAPTURE_KEYS) == written["capture"][0].keys() | shown["hooks.capture"].keys()
    usual = HooksConfig()
    for key, value in shown["hooks"].items():
        assert _plain(getattr(usual, key)) == value, key
    for key, value in shown["hooks.shell"].items():
        assert _plain(getattr(usual.shell, key)) == value, key
    command, file = written["handlers"]
    assert set(KEYS) == command.keys() | file.keys() | shown["hooks.handlers"].keys()
    definition = {field.name: field.default for field in fields(HandlerDefinition)}
    for key, value in shown["hooks.handlers"].items():
        if definition.get(key) not in (None, ()):  # of these, what is shown is an example
            assert definition[key] == value, key


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_defaults_complete_a_minimal_file(tmp_path: Path) -> None:
    """A name and a directory are enough for one node on loopback; paths count from the file."""
    config = _load(tmp_path, MINIMAL)
    assert config.node.data_dir == tmp_path / "data"
    assert config.listen.client == Address("127.0.0.1", 7470)
    assert (config.raft.heartbeat_ms, config.tls.enabled) == (50, False)


def test_all_problems_are_listed_with_line_and_nearest_spelling(tmp_path: Path) -> None:
    """Wrong keys, types, sections, patterns and topics are reported together."""
    text = """\
[node]
name = "a b"
dat_dir = "x"
[raft]
heartbeat_ms = "50"
[log]
level = "warnin"
[hoks]
[cluster]
peers = [
  { name = "a", address = "127.0.0.1:1" },
  { name = "b", adress = "127.0.0.1:2" },
]
[[hooks.handlers]]
name = "x"
type = "in_process"
handler_id = "x"
pattern = "hooks.kv.write_commited"
"""
    problems = _problems(tmp_path, text)
    expected = [
        r'node\.toml:8: hoks: there is no section \[hoks\]; did you mean "hooks"\?',
        r"node\.toml:2: node\.name: a name has 1 to 63 letters.*got 'a b'",
        r"node\.toml:1: node\.data_dir: is missing",
        r'node\.toml:3: node\.dat_dir: there is no such key in node; did you mean "data_dir"\?',
        r"node\.toml:12: cluster\.peers\[1\]\.address: is missing",
        r'node\.toml:12: cluster\.peers\[1\]\.adress: .*; did you mean "address"\?',
        r"node\.toml:5: raft\.heartbeat_ms: must be an integer, got '50'",
        r"node\.toml:7: log\.level: expected .*, got 'warnin'; did you mean \"warning\"\?",
        r"node\.toml:18: hooks\.handlers\[0\]\.pattern: .*"
        r'did you mean "hooks\.kv\.write_committed"\?',
    ]
    assert len(expected) == len(problems)
    for wanted, found in zip(expected, problems, strict=True):
        assert re.fullmatch(wanted, found), found


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('execution_mode = "job"', "no jobs yet"),
        ('job_priority = "high"', "no jobs yet"),
        ('target_topic = "x"', "forwarding to another cluster does not exist yet"),
    ],
)
def test_what_does_not_exist_yet_is_refused_by_name(tmp_path: Path, line: str, reason: str) -> None:
    """A key of the source document whose feature is missing is refused, never ignored."""
    handler = '[[hooks.handlers]]\nname = "x"\npattern = "hooks.>"\ntype = "shell"\ncommand = "x"\n'
    (problem,) = _problems(tmp_path, f"{MINIMAL}{handler}{line}\n")
    assert problem.startswith("node.toml:9: hooks.handlers[0].")
    assert reason in problem


@pytest.mark.parametrize("kind", ["forward", "webhook"])
def test_handler_types_that_do_not_exist_yet_are_refused(tmp_path: Path, kind: str) -> None:
    """`forward` and `webhook` are named as missing."""
    handler = f'[[hooks.handlers]]\nname = "x"\npattern = "hooks.>"\ntype = "{kind}"\n'
    assert any("do not exist yet" in p or "does not exist yet" in p
               for p in _problems(tmp_path, MINIMAL + handler))  # fmt: skip


PUBLIC = '[listen]\nclient = "10.0.0.1:7470"\n'


def test_plaintext_off_loopback_is_refused_unless_insecure(tmp_path: Path) -> None:
    """Without certificates nothing leaves the machine, unless the file says so in so many words."""
    (problem,) = _problems(tmp_path, MINIMAL + PUBLIC)
    assert problem.startswith("node.toml:5: listen.client: traffic of 10.0.0.1:7470")
    assert "insecure = true" in problem
    _load(tmp_path, MINIMAL + PUBLIC + "[tls]\ninsecure = true\n")


def test_certificates_come_together_and_exclude_insecure(tmp_path: Path) -> None:
    """Half a set of certificate files, or `insecure` beside them, is a contradiction."""
    problems = _problems(tmp_path, MINIMAL + '[tls]\nca = "ca.crt"\ninsecure = true\n')
    assert [problem.split(":")[2].strip() for problem in problems] == [
        "tls.certificate",
        "tls.key",
        "tls.insecure",
    ]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('[cluster]\njoin = ["127.0.0.1:1"]\npeers = [{name="a",address="127.0.0.1:2"}]', "joins"),
        ('[cluster]\npeers = [{name="b",address="127.0.0.1:2"}]', '"a", is not among them (b)'),
        (
            '[cluster]\npeers = [{name="a",address="127.0.0.1:2"},'
            '{name="b",address="127.0.0.1:2"}]',
            "stands here twice",
        ),
        ('[listen]\npeer = "127.0.0.1:9"\nhttp = "127.0.0.1:9"', "already the address"),
        ('[listen]\npeer = "0.0.0.0:9"\n[tls]\ninsecure = true', "others cannot dial 0.0.0.0:9"),
        ("[raft]\nheartbeat_ms = 150", "at least 3 heartbeats, 450 ms"),
        ("[raft]\nelection_timeout_max_ms = 300", "above election_timeout_min_ms"),
        ("[raft]\nheartbeat_ms = 1", "greater than or equal to 5, got 1"),
        ("[limits.client]\npage_rows_max = 90000", "page_rows_max <= RANGE_ROWS_MAX"),
        (
            "[limits.hooks]\nkeepalive_ms = 9000",
            "member_ttl_ms - lease_margin_ms (one lost keepalive must not end the session)",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, lines: str, reason: str) -> None:
    """Values that are valid alone and wrong together are refused with the reason."""
    (problem,) = _problems(tmp_path, MINIMAL + lines)
    assert reason in problem


def test_labels_tell_nodes_apart(tmp_path: Path) -> None:
    """A few short words each; anything else says what a label is, and too many say how many."""
    config = _load(tmp_path, MINIMAL + 'labels = { zone = "a", "rack/row" = "7" }\n')
    assert config.node.labels == {"zone": "a", "rack/row": "7"}
    for wrong, expected in (
        ('"zone=a"', "a table of texts is expected"),
        ('{ zone = "a b" }', "'a b': 1 to 63 of the characters"),
        ("{ zone = 1 }", "1: 1 to 63 of the characters"),
        ("{ " + ", ".join(f'l{n} = "x"' for n in range(33)) + " }", "33 labels; at most 32"),
    ):
        (problem,) = _problems(tmp_path, f"{MINIMAL}labels = {wrong}\n")
        assert problem.startswith("node.toml:4: node.labels: ")
        assert expected in problem


def test_paths_of_hooks_count_from_the_file(tmp_path: Path) -> None:
    """The directory, where a command runs, and the file that is rendered."""
    hooks = '[hooks]\ndirectory = "hooks.d"\n[[hooks.handlers]]\nname = "f"\ntype = "file"\n'
    config = _load(tmp_path, MINIMAL + hooks + 'path = "hosts"\n')
    assert config.hooks.directory == str(tmp_path / "hooks.d")
    assert config.hooks.handlers[0].path == str(tmp_path / "hosts")


def test_environment_overrides_keys(tmp_path: Path) -> None:
    """TREMULA__SECTION__KEY replaces a key: text as it stands, everything else as TOML."""
    config = _load(
        tmp_path,
        MINIMAL,
        TREMULA__NODE__NAME="1",
        TREMULA__RAFT__HEARTBEAT_MS="20",
        TREMULA__CLUSTER__JOIN='["127.0.0.1:5"]',
        TREMULA__HOOKS__ENABLED="false",
        TREMULA_ENDPOINTS="not ours",
    )
    assert (config.node.name, config.raft.heartbeat_ms) == ("1", 20)
    assert config.cluster.join == (Address("127.0.0.1", 5),)
    assert not config.hooks.enabled


def test_environment_problems_name_the_variable(tmp_path: Path) -> None:
    """A wrong override is reported with its variable and not with a line of the file."""
    problems = _problems(
        tmp_path,
        MINIMAL,
        TREMULA__RAFT__HEARTBEAT="5",
        TREMULA__LOG__LEVEL="loud",
        TREMULA__NODE="x",
    )
    variables = {problem.split(":")[0] for problem in problems}
    assert variables == {
        f"environment variable TREMULA__{name}"
        for name in ("RAFT__HEARTBEAT", "LOG__LEVEL", "NODE")
    }
    assert any('did you mean "heartbeat_ms"?' in problem for problem in problems)


def test_unreadable_files_are_explained(tmp_path: Path) -> None:
    """No file, no UTF-8 and no TOML are problems with a place, not tracebacks."""
    with pytest.raises(ConfigError, match=r"none\.toml: file: cannot be read: No such file"):
        load(tmp_path / "none.toml", {})
    assert "node.toml:2" in _problems(tmp_path, '[node]\nname = = "a"\n')[0]
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(tmp_path / "binary.toml", {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("7470", "expected host:port"),
        ("::1:7470", "in brackets"),
        ("a:b:1", "in brackets"),
        ("a:0", "from 1 to 65535"),
        ("a:x", "from 1 to 65535"),
        ("http://a:1", "not a host name"),
    ],
)
def test_addresses_that_are_none_are_refused(text: str, reason: str) -> None:
    """What is not host:port says what it should look like."""
    with pytest.raises(ValueError, match=reason):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [("127.0.0.9:1", True), ("[::1]:1", True), ("localhost:1", True), ("a.example:1", False)],
)
def test_addresses_keep_their_text_and_know_loopback(text: str, loopback: bool) -> None:
    """An address prints as it was written; only what cannot leave the machine is loopback."""
    address = parse_address(text)
    assert (str(address), address.is_loopback) == (text, loopback)


@pytest.mark.parametrize("text", ["x = " + "[" * 5_000, "x" + ".a" * 5_000 + " = 1"])
def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path, text: str) -> None:
    """Nesting past what the parser takes is a problem of the file: a reload survives it."""
    assert _problems(tmp_path, text) == ["node.toml: file: is nested too deeply"]
    assert "an array" in _problems(tmp_path, MINIMAL, TREMULA__CLUSTER__JOIN="[" * 5_000)[0]


def test_lines_of_every_form_of_toml() -> None:
    """Tables, dotted keys, nested arrays, inline tables and strings with traps are followed."""
    text = '''\
# comment with [brackets] = 1
top = "a # not a comment" # yes
[a.b]
"quoted key" = \'\'\'
x = 1
[not.a.table]
\'\'\'
dotted.key = [ # comment ]
  1, "]",
  { in = 1, line = """two
quotes "" inside"""" },
]
[[list]]
x = 1
[[list]]
[list.sub]
y = 2
'''
    tomli.loads(text)
    lines = key_lines(text)
    assert {
        ("top",): 2,
        ("a", "b"): 3,
        ("a", "b", "quoted key"): 4,
        ("a", "b", "dotted", "key"): 8,
        ("a", "b", "dotted", "key", 1): 9,
        ("a", "b", "dotted", "key", 2, "line"): 10,
        ("list", 0, "x"): 14,
        ("list", 1): 15,
        ("list", 1, "sub", "y"): 17,
    }.items() <= lines.items()
    assert line_of(lines, ("list", 1, "sub", "missing", 3)) == 16
    assert line_of(lines, ("nowhere",)) is None


_SCALARS = st.one_of(
    st.integers(), st.booleans(), st.text(alphabet="ab\"'[]{}#=,.\\\n", max_size=8)
)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ",\n".join(_toml(element) for element in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(element)}" for key, element in value.items()) + "}"
    return str(value)


_NAMES = st.sampled_from(["a", "b", "c_d", "e-f"])
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(_NAMES, _VALUES), st.dictionaries(_NAMES, _VALUES, min_size=1))
def test_line_of_every_key_is_a_line_that_has_it(
    table: dict[str, object], element: dict[str, object]
) -> None:
    """For any file, each key's line contains the key, and no key of the file is left out."""
    text = "[t]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
    text += "[[l]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in element.items())
    parsed = tomli.loads(text)
    lines = key_lines(text)
    rows = text.splitlines()
    for path, line in lines.items():
        if isinstance(path[-1], str) and len(path) > 1:
            assert path[-1] in rows[line - 1]

    def check(path: tuple[str | int, ...], value: object) -> None:
        assert path in lines or not path or value == []
        if isinstance(value, dict):
            for key, inner in value.items():
                check((*path, key), inner)
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                check((*path, index), inner)

    check(("t",), parsed["t"])
    check(("l", 0), parsed["l"][0])


def test_sections_of_the_models_and_of_the_result_agree() -> None:
    """No section is parsed and then left out of the result."""
    assert [*SECTIONS, "folder", "file"] == [field.name for field in fields(NodeConfig)]


def test_no_key_is_accepted_and_then_ignored() -> None:
    """Every key of the file is read somewhere outside of where it is defined."""
    root = CONFIGS.parent
    definitions = ("cluster/config/models.py", "cluster/server/limits.py", "hooks/limits.py")
    code = "".join(
        path.read_text()
        for folder in ("cluster", "hooks")
        for path in (root / folder).rglob("*.py")
        if str(path.relative_to(root)) not in definitions
    )
    keys = [key for model in MODELS.values() for key in model.model_fields]
    keys += [key for _, key, _ in bound_keys()]
    assert [key for key in keys if not re.search(rf"\.{key}\b", code)] == []
