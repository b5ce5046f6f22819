"""What a parser says of each kind of mistake, and which settings a later option replaces."""

import textwrap
from abc import ABC, abstractmethod
from pathlib import Path

import pytest
from jsonargparse.typing import Path_fr
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tiny import write_yaml

from dydiff.cli.parser import ConfigFile, Parser, user_error
from dydiff.utils.errors import UserError


class Shape(ABC):
    """A kind of class that settings name."""

    @abstractmethod
    def area(self):
        """Its size."""


class Circle(Shape):
    def __init__(self, radius: float = 1.0, colour: str = "red", inner: Shape | None = None, width: int | None = 2):
        self.radius = radius

    def area(self):
        return 3 * self.radius**2


class Square(Shape):
    def __init__(self, side: int):
        self.side = side

    def area(self):
        return self.side**2


class Unfinished(Shape):
    pass


class Elsewhere(CSVLogger):
    """A logger whose folder is not a setting."""

    def __init__(self, extra: int = 3):
        super().__init__("elsewhere")


def parser():
    made = Parser(prog="test", allow_abbrev=False)
    made.add_argument("--config", action=ConfigFile)
    made.add_argument("--seed_everything", type=bool | int, default=0)
    made.add_argument("--trainer.max_epochs", type=int, default=1)
    made.add_argument("--trainer.precision", type=str | None)
    made.add_argument("--file", type=Path_fr | None)
    made.add_subclass_arguments(Shape, "shape", default=None)
    made.add_subclass_arguments(Shape, "rollout", default=None)
    made.add_argument("--trainer.callbacks", type=list[Shape] | Shape | None)
    made.add_argument("--trainer.logger", type=list[Logger] | Logger | None)
    return made


def parse(*args):
    return parser().parse_args(list(args))


def said(*args):
    """The one line of a mistake."""
    with pytest.raises(UserError) as error:
        parse(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


CIRCLE = "--shape=test_parser.Circle"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--trainer.max_epoch=3"], "Unknown key 'trainer.max_epoch'. Did you mean trainer.max_epochs, "),
        (["--trainers.max_epochs=3"], "Unknown key 'trainers'. Did you mean trainer?"),
        (["--trainer=3"], "Unknown key 'trainer'. Known: config, file, print_config"),
        (["word"], "Unknown key 'word'. Known: config, file, print_config"),
        (["--seed_everything=x"], "seed_everything must be a whole number, or true for a random one."),
        (["--trainer.max_epochs=many"], "trainer.max_epochs: Expected a <class 'int'>. Got value: many"),
        (["--file=none.txt"], "file: Not of type Path_fr: File does not exist:"),
        (["--config=none.yaml"], "config: File does not exist:"),
    ],
)
def test_a_wrong_option(args, line):
    assert said(*args).startswith(line)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([CIRCLE, "--shape.radios=2"], "Unknown key 'radios' in shape (test_parser.Circle). Did you mean radius?"),
        ([CIRCLE, "--shape.side=2"], "Unknown key 'side' in shape (test_parser.Circle). It is an argument of Square."),
        ([CIRCLE, "--shape.qqq=2"],
         "Unknown key 'qqq' in shape (test_parser.Circle). Known: colour, inner, radius, width."),
        ([CIRCLE, "--shape.radius=big"], "shape.radius: Expected a <class 'float'>. Got value: big"),
        ([CIRCLE, "--shape.inner=test_parser.Square", "--shape.inner.side=x"],
         "shape.inner.side: Expected a <class 'int'>. Got value: x"),
        (["--shape={class_path: test_parser.Circle, init_args: {radius: big}}"],
         "shape.radius: Expected a <class 'float'>. Got value: big"),
        (["--shape={class_path: test_parser.Circle, init_args: "
          "{inner: {class_path: test_parser.Square, init_args: {sidde: 1}}}}"],
         "Unknown key 'sidde' in shape.inner (test_parser.Square). Did you mean side?"),
        (["--shape=test_parser.Square"], "shape: the following arguments are required: side"),
    ],
)  # fmt: skip
def test_a_wrong_argument_of_a_class(args, line):
    assert said(*args) == line


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("test_parser.Circl", "Nothing named 'Circl' in test_parser. Did you mean Circle"),
        ("dydiff.agent.TD3BC", "Nothing named 'agent' in dydiff. Did you mean agents"),
        ("test_parsers.Circle", "shape: No module named 'test_parsers'"),
        ("test_parser.Circle.radius", "shape: type object 'Circle' has no attribute 'radius'"),
        ("test_parser.parser", "shape: test_parser.parser does not correspond to a subclass of Shape"),
        ("pathlib.Path", "shape: pathlib.Path does not correspond to a subclass of Shape"),
        ("test_parser.Unfinished", "shape: test_parser.Unfinished cannot be made, as it lacks area: name a class that"),
        ("Unfinished", "shape: Unfinished cannot be made, as it lacks what a class of its kind needs: name a class"),
        ("none.yaml", "shape: there is no file none.yaml."),
        ("folder/none.yml", "shape: there is no file folder/none.yml."),
    ],
)
def test_a_class_that_cannot_be_made(name, line):
    assert said(f"--shape={name}").startswith(line)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a: [", "mine.yaml: Problems parsing config: while parsing a flow node; did not find expected node content"),
        ("text", "mine.yaml: Unexpected config: text"),
        ("trainer: {max_epoch: 3}", "Unknown key 'trainer.max_epoch'. Did you mean trainer.max_epochs, "),
        ("trainers: {max_epochs: 3}", "Unknown key 'trainers'. Did you mean trainer?"),
        ("seed_everything: x", "mine.yaml: seed_everything must be a whole number"),
        (
            "shape: {class_path: test_parser.Circle, init_args: {radios: 2}}",
            "mine.yaml: Unknown key 'radios' in shape (test_parser.Circle). Did you mean radius?",
        ),
    ],
)
def test_a_wrong_file(tmp_path, monkeypatch, content, line):
    """Of several files, the message says which, where jsonargparse knows it."""
    monkeypatch.chdir(tmp_path)
    write_yaml(Path("good.yaml"), {"trainer": {"max_epochs": 2}})
    Path("mine.yaml").write_text(content)
    assert said("--config=good.yaml", "--config=mine.yaml").startswith(line)


def files(*contents):
    """Options of config files with these contents."""
    for number, content in enumerate(contents):
        Path(f"{number}.yaml").write_text(textwrap.dedent(content))
    return [f"--config={number}.yaml" for number in range(len(contents))]


SHAPES = "trainer: {{callbacks: [{}]}}"
SMALL = "{class_path: test_parser.Circle, init_args: {radius: 0.5}}"
BLUE = "{class_path: test_parser.Circle, init_args: {colour: blue}}"


def arguments(callbacks):
    return [(each.init_args.radius, each.init_args.colour) for each in callbacks]


def test_a_list_of_a_later_file_replaces_that_of_an_earlier_one(tmp_path, monkeypatch):
    """No argument of the class that stood at the same place remains, whatever the lists' lengths."""
    monkeypatch.chdir(tmp_path)
    for first, second, expected in [
        (SMALL, BLUE, [(1.0, "blue")]),
        (f"{SMALL}, {SMALL}", BLUE, [(1.0, "blue")]),
        (SMALL, f"{BLUE}, {BLUE}", [(1.0, "blue")] * 2),
    ]:
        config = parse(*files(SHAPES.format(first), SHAPES.format(second)))
        assert arguments(config.trainer.callbacks) == expected
    config = parse(*files(SHAPES.format(SMALL), "trainer: {max_epochs: 5}"))
    assert arguments(config.trainer.callbacks) == [(0.5, "red")] and config.trainer.max_epochs == 5
    config = parse(*files("trainer: {max_epochs: 5}", SHAPES.format(SMALL)), f"--trainer.callbacks+={BLUE}")
    assert arguments(config.trainer.callbacks) == [(0.5, "red"), (1.0, "blue")] and config.trainer.max_epochs == 5


@pytest.mark.parametrize("key", ["rollout", "shape"])
def test_an_option_that_names_a_rollout_replaces_it_whole(tmp_path, monkeypatch, key):
    """Settings of another kind of synthetic data must not remain; of any other class they do."""
    monkeypatch.chdir(tmp_path)
    config = files(f"{key}: {SMALL}")
    for option in ([f"--{key}=test_parser.Circle"], [f"--{key}", "test_parser.Circle"]):
        made = parse(*config, f"--{key}.colour=green", *option, f"--{key}.inner=null")[key].init_args
        assert (made.radius, made.colour) == ((1.0, "red") if key == "rollout" else (0.5, "green"))
    made = parse(*config, f"--{key}=test_parser.Circle", f"--{key}.colour=blue", f"--{key}.radius", "2")[key].init_args
    assert (made.radius, made.colour) == (2.0, "blue")
    assert parse(*config, f"--{key}=null")[key] is None


def test_of_two_options_that_name_a_rollout_the_later_counts_alone():
    circle = "--rollout=test_parser.Circle"
    assert parse(circle, "--rollout.colour=green", circle).rollout.init_args.colour == "red"
    assert parse(circle, circle, "--rollout.colour=green").rollout.init_args.colour == "green"


def test_null_reaches_a_class_within_a_class():
    inner = "--shape.inner=test_parser.Circle"
    assert parse(CIRCLE, inner).shape.init_args.inner.init_args.width == 2
    assert parse(CIRCLE, inner, "--shape.inner.width=null").shape.init_args.inner.init_args.width is None


@pytest.mark.parametrize("option", ["--trainer.logger", "--trainer.logger+"])
@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger, Elsewhere])
def test_nobody_has_to_name_the_folder_of_a_logger(option, kind):
    path = kind.__name__ if kind is not Elsewhere else "test_parser.Elsewhere"
    logger = parse(f"{option}={path}").trainer.logger
    logger = logger[0] if option.endswith("+") else logger
    assert logger.init_args.get("save_dir") == (None if kind is Elsewhere else ".")
    named = parse("--trainer.logger={class_path: CSVLogger, init_args: {save_dir: mine}}").trainer.logger
    assert named.init_args.save_dir == "mine"
    assert len(parse("--trainer.logger=[CSVLogger, TensorBoardLogger]").trainer.logger) == 2


def raised(error, cause=None, context=None):
    error.__cause__, error.__context__ = cause, context
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("wrong"), "wrong"),
        (raised(ValueError("outer"), cause=raised(TypeError("inner"), context=UserError("wrong"))), "wrong"),
        (raised(ValueError("outer"), cause=MisconfigurationException("two\n  lines")), "two lines"),
        (raised(MisconfigurationException("outer"), cause=UserError("inner")), "outer"),
    ],
)
def test_an_error_that_the_user_can_fix_is_found_however_it_is_wrapped(error, line):
    assert str(user_error(error)) == line


def test_other_errors_are_not_the_users():
    assert user_error(None) is None
    assert user_error(raised(ValueError("outer"), cause=KeyError("inner"))) is None
