"""Chat templates: a tenant's code, rendered where it can hold up nobody and take nothing.

chat_template        what a template is given, and what is refused before it runs
known_templates      the sources that may run in this process
jinja_template       compiling and running one, in this process or in a worker
template_workers     the workers, as the server sees them
limited_process      starting a process under limits, for one answer or for many
worker_main          what runs in it
"""
