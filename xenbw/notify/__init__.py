"""Telling the admin: what a message says (message), who carries it (mail by SMTP, sendmail, command), trying until it
is delivered (delivery), the daemon's thread that does so (courier), the service that runs programs (service)."""
