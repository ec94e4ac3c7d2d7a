package main

// A front is a front end. In its command and config, DIR, PORT, BACKEND and BACKENDPORT stand
// for its directory, its port, and the backend's address and port. Each waits for an answer
// for 2 s and sends one request at a time, except Caddy, which has no such limit.
type front struct {
	name    string
	version string // the option that prints the version
	command []string
	config  string
}

var fronts = []front{
	{"nginx", "-v", []string{"nginx", "-p", "DIR", "-c", "DIR/config"}, `daemon off;
user root;
pid DIR/pid;
error_log DIR/error.log;
worker_processes 1;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path DIR/a; proxy_temp_path DIR/b; fastcgi_temp_path DIR/c; uwsgi_temp_path DIR/d; scgi_temp_path DIR/e;
  limit_conn_zone $server_name zone=all:1m;
  server {
    listen 127.0.0.1:PORT;
    server_name contoso.api.crm.dynamics.com;
    root DIR/empty;
    location /nowhere { }
    location / {
      limit_conn all 1;
      proxy_connect_timeout 1s;
      proxy_read_timeout 2s;
      proxy_pass http://BACKEND;
    }
  }
}
`},
	{"haproxy", "-v", []string{"haproxy", "-f", "DIR/config"}, `defaults
  mode http
  timeout connect 1s
  timeout client 10s
  timeout server 2s
  timeout queue 500ms
  retries 0
frontend f
  bind 127.0.0.1:PORT
  use_backend none if { path_beg /nowhere }
  default_backend b
backend b
  server s BACKEND maxconn 1
backend none
`},
	{"apache", "-v", []string{"apache2", "-d", "DIR", "-f", "DIR/config", "-D", "FOREGROUND"}, `PidFile DIR/pid
ErrorLog DIR/error.log
DefaultRuntimeDir DIR
ServerName contoso.api.crm.dynamics.com
ServerAdmin admin@contoso.example
User www-data
Group www-data
Listen 127.0.0.1:PORT
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
StartServers 1
ServerLimit 1
ThreadsPerChild 8
MaxRequestWorkers 8
MinSpareThreads 1
MaxSpareThreads 8
DocumentRoot DIR/empty
<Directory DIR/empty>
  Require all granted
</Directory>
ProxyPass /nowhere !
ProxyPass / http://BACKEND/ connectiontimeout=1 timeout=2 max=1 acquire=500 retry=0
`},
	{"varnish", "-V", []string{"varnishd", "-F", "-j", "none", "-a", "127.0.0.1:PORT", "-f", "DIR/config", "-n", "DIR/work", "-s", "malloc,32m"}, `vcl 4.1;
backend default {
  .host = "127.0.0.1";
  .port = "BACKENDPORT";
  .connect_timeout = 1s;
  .first_byte_timeout = 2s;
  .max_connections = 1;
}
sub vcl_recv {
  if (req.url ~ "^/nowhere") {
    return (synth(404));
  }
  return (pass);
}
`},
	{"squid", "-v", []string{"squid", "-N", "-f", "DIR/config"}, `http_port 127.0.0.1:PORT accel defaultsite=contoso.api.crm.dynamics.com
cache_peer 127.0.0.1 parent BACKENDPORT 0 no-query no-digest originserver max-conn=1 connect-timeout=1
acl nowhere urlpath_regex ^/nowhere
http_access deny nowhere
http_access allow all
cache deny all
visible_hostname contoso.example
dns_nameservers 127.0.0.1
pid_filename DIR/pid
access_log none
cache_log DIR/cache.log
coredump_dir DIR
connect_timeout 1 second
read_timeout 2 seconds
forward_timeout 3 seconds
`},
	{"caddy", "version", []string{"caddy", "run", "--adapter", "caddyfile", "--config", "DIR/config"}, `{
  admin off
  auto_https off
}
http://:PORT {
  bind 127.0.0.1
  root * DIR/empty
  handle /nowhere {
    file_server
  }
  handle {
    reverse_proxy BACKEND {
      transport http {
        dial_timeout 1s
        response_header_timeout 2s
      }
    }
  }
}
`},
}
