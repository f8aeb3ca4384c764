"""The one lower layer: wire types, generation parameters, error classes. No I/O, no clock, no logging is done here."""
