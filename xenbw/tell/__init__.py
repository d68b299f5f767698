"""Log, mail and the admin's command: who hears what, once. Judge and daemon say what there is to tell; the service
xenbw-notify delivers it.
"""
