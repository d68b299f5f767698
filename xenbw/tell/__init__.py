"""Messages to the admin: log, mail and the admin's command. Rooms above write announcements; the daemon's courier sends
them by SMTP, and the service xenbw-notify by programs.
"""
