"""Multi-agent self-evolution (SPEC section 2): a proposer asks, a solver answers, a verifier compares."""
