"""The invented users → selfedit/sessions/heads/, with which a model reads turns: python tools/fit_reader.py [MODEL]

A quarter of an hour for SmolLM2-135M on 2 cores.
"""

import sys

from selfedit.model.load import load_model
from selfedit.sessions.reader import READER, fit, save

model = load_model(sys.argv[1] if sys.argv[1:] else READER)
print(save(fit(model), model))
