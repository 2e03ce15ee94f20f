"""The independent checker: of synthesis it knows the records and the question templates' wording, no code."""
