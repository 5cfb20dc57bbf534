"""The HTTP application: who may ask, what is asked, who answers, and in what form."""
