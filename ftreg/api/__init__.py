"""The public functions: everything that the command line does, in Python, by what they are about.

``training`` plans and trains; ``distillation`` trains on what a teacher finds likely; ``steps`` transforms;
``evaluation`` measures; ``goldens`` runs golden prompts;
``versions`` tells what is known of a version; ``data`` looks at training data; ``deployments`` packages and serves;
``experiments`` follows and decides A/B tests; ``settings`` lists what can be set. The commonest of them can be imported
from ``ftreg`` itself.

Every function takes the registry to work in and where to report progress; without a registry it opens the default one
(``$FTREG_HOME``, the nearest ``.ftreg``, or the user's) and closes it again. Each raises ``ftreg.FtregError`` with a
message that says what is wrong, where, and what to do. The methods of ``ftreg.Registry`` belong to this front door too:
``get``, ``list``, ``tag``, ``set_alias``, ``verify``, ``gc`` and the others need no function here.
"""
