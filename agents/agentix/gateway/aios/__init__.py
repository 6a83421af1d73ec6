"""The API of AIOS, as far as it is about models: what the Cerebrum SDK calls."""
