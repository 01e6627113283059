"""The operations of an operator: questions and acts."""
