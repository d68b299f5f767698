"""Messages to the admin: log, mail, the admin's command, webhooks; and the file of metrics. Rooms above write
announcements; the daemon's courier sends them by SMTP, and the service xenbw-notify by programs and to web servers.
"""
