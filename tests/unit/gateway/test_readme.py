import re
from pathlib import Path

README = Path(__file__).parents[3] / "services/gateway/README.md"


def test_worked_example_does_what_it_says():
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(example, str(README), "exec"), {})
