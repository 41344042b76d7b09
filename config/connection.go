package config

import (
	"errors"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// validateConnection checks how Service Bus is reached. A problem shows nothing of the proxy's URL.
func (s *ServiceBus) validateConnection(p *Problems) {
	if !slices.Contains([]string{"amqp", "websockets"}, s.Transport) {
		p.add("servicebus.transport: %s: use amqp or websockets (REVOKER_SERVICEBUS_TRANSPORT)", show(s.Transport))
	} else if s.Proxy != "" && s.Transport == "amqp" {
		p.add("servicebus.proxy: AMQP does not go through an HTTP proxy: set servicebus.transport to websockets " +
			"(REVOKER_SERVICEBUS_TRANSPORT)")
	}
	if _, err := s.ProxyURL(); err != nil {
		p.add("servicebus.proxy: %v (REVOKER_SERVICEBUS_PROXY)", err)
	}
	if s.Endpoint != "" && !isEndpoint(s.Endpoint) {
		p.add("servicebus.endpoint: %s is not HOST, HOST:PORT, or an IP address (REVOKER_SERVICEBUS_ENDPOINT)", show(s.Endpoint))
	}
}

// ProxyURL returns the proxy to Service Bus, or nil if none is configured. The error does not quote
// it.
func (s ServiceBus) ProxyURL() (*url.URL, error) {
	if s.Proxy == "" {
		return nil, nil
	}
	u, err := parseProxy(s.Proxy)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errProxy
	}
	return u, nil
}

var errProxy = errors.New("not the URL of an HTTP proxy, like http://proxy.contoso.com:3128; " +
	"percent-encode special characters in a password (@ is %40)")

// parseProxy parses the URL of a proxy.
func parseProxy(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || strings.ContainsAny(u.Host, ` "'`) || u.Path != "" && u.Path != "/" ||
		u.RawQuery != "" || u.Fragment != "" || u.Port() != "" && !isPort(u.Port()) {
		return nil, errProxy
	}
	return u, nil
}

// checkProxies checks the proxy that the environment names. Package httpproxy, which reads it,
// reports nothing: it connects without a proxy if it cannot parse the URL, or takes "http" for the
// name of the proxy. HTTP_PROXY does not matter: all servers have https.
func checkProxies(environ []string, p *Problems) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
		value := ""
		for _, variable := range environ {
			if of, text, _ := strings.Cut(variable, "="); of == name {
				value = text
			}
		}
		if value == "" {
			continue
		}
		if !strings.Contains(value, ":/") {
			value = "http://" + value // as httpproxy does
		}
		if u, err := parseProxy(value); err != nil || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
			p.add("%s: %v", name, errProxy)
		}
		return
	}
}

// isEndpoint reports whether an address is HOST, HOST:PORT, or an IP address with or without a port.
func isEndpoint(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"), "443"
	}
	if !isPort(port) {
		return false
	}
	return net.ParseIP(host) != nil || isHostName(host)
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

var labelForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*$`)

// isHostName reports whether a name can be looked up: labels of up to 63 characters, perhaps with a
// dot at the end.
func isHostName(name string) bool {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if len(label) > 63 || !labelForm.MatchString(label) {
			return false
		}
	}
	return true
}
