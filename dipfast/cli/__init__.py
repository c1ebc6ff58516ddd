"""The command line: each verb parses its options and calls the library. Nothing imports it."""
