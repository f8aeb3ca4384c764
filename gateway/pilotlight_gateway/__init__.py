"""The front door that is always open: who may ask what, which way a request goes, and how it is answered."""
