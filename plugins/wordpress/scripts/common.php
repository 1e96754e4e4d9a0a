<?php
// Put before the other scripts: makes WordPress believe in a request, since it
// reads these without asking whether they are there.
function chom_request( string $url ): void {
	$parts                      = parse_url( $url );
	$_SERVER['HTTP_HOST']       = $parts['host'];
	$_SERVER['SERVER_NAME']     = $parts['host'];
	$_SERVER['REQUEST_URI']     = '/';
	$_SERVER['REQUEST_METHOD']  = 'GET';
	$_SERVER['SERVER_PROTOCOL'] = 'HTTP/1.1';
	$_SERVER['HTTP_ACCEPT']     = 'application/json'; // errors as a line of text, not as a page
	if ( 'https' === $parts['scheme'] ) {
		$_SERVER['HTTPS'] = 'on';
	}
}

