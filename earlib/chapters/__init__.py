"""One file a chapter: what that notebook alone needs. Nothing else imports it."""
