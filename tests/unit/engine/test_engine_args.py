import pytest

from pilotlight_engine.engine_arguments import parse_engine_args, with_defaults
from pilotlight_protocol.errors import InvalidInput


@pytest.mark.parametrize(
    ("flags", "variable", "expected"),
    [
        ([], "", {}),
        (["enforce_eager"], "", {"enforce_eager": "true"}),
        (["max-model-len=512", "--dtype=float16"], "", {"max_model_len": "512", "dtype": "float16"}),
        ([], "max_model_len=512,dtype=float16", {"max_model_len": "512", "dtype": "float16"}),
        ([], "max_model_len=512 enforce_eager", {"max_model_len": "512", "enforce_eager": "true"}),
        ([], '{"max_model_len": 512, "enforce_eager": true}', {"max_model_len": "512", "enforce_eager": "true"}),
        ([], '{"speculative_config": {"method": "ngram"}}', {"speculative_config": '{"method": "ngram"}'}),
        (['speculative_config={"a": 1, "b": 2}'], "", {"speculative_config": '{"a": 1, "b": 2}'}),
        ([], """'speculative_config={"a":1,"b":2}' seed=1""", {"speculative_config": '{"a":1,"b":2}', "seed": "1"}),
        (["seed=2"], "seed=1,dtype=auto", {"seed": "2", "dtype": "auto"}),
    ],
)
def test_arguments_are_read_from_flags_and_variable(flags: list[str], variable: str, expected: dict[str, str]) -> None:
    assert parse_engine_args(flags, variable) == expected


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("model=/x", "'model' cannot be set: it comes from --model_dir"),
        ("tokenizer=/x", "'tokenizer' cannot be set"),
        ("skip_tokenizer_init=false", "'skip_tokenizer_init' cannot be set"),
        ("trust-remote-code", "'trust_remote_code' cannot be set: code"),
        ("data_parallel_size=2", "run more replicas"),
        ("=5", "write name=value"),
        ("Not A Name=5", "write name=value"),
    ],
)
def test_what_cannot_be_set_is_refused_with_the_reason(flag: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_engine_args([flag])


@pytest.mark.parametrize("variable", ["{", "[1]]", "a='b", '{"model": 1}'])
def test_a_broken_variable_is_refused(variable: str) -> None:
    with pytest.raises(InvalidInput):
        parse_engine_args([], variable)


def test_defaults_give_way_and_the_tokenizer_stays_out() -> None:
    merged = with_defaults(
        {"scheduling_policy": "fcfs", "quantization": "gptq"}, {"quantization": "awq", "dtype": None}
    )
    assert merged == {
        "scheduling_policy": "fcfs",
        "enable_prefix_caching": "true",
        "quantization": "gptq",
        "skip_tokenizer_init": "true",
    }
