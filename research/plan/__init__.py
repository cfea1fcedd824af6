"""What a run costs before it is launched: roofline, memory, steps compiled for chips that are not here."""
