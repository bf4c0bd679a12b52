"""What live objects are, found out without running any code of the user's."""
