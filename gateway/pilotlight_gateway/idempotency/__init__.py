"""One execution for each request id of a tenant: who asks again joins the answer, or is given the rest of it."""
