"""Probes of an unlearned model, one question per file: does it come back, is it still inside, how near to a retrained one?"""
