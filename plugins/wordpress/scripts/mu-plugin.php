<?php
/**
 * Plugin Name: CHOM login links
 * Description: Turns a one-use login link from your hosting panel into a session. Harmless when unused.
 *
 * A link carries a token. The database holds, for a minute, the token's hash,
 * under the hash's beginning. The row is deleted before the session is made,
 * and only the request whose DELETE hit the row gets one.
 */

defined( 'ABSPATH' ) || exit;

add_action(
	'init',
	function () {
		if ( ! isset( $_GET['chom_login'] ) || 'GET' !== ( $_SERVER['REQUEST_METHOD'] ?? '' ) ) {
			return;
		}
		defined( 'DONOTCACHEPAGE' ) || define( 'DONOTCACHEPAGE', true ); // page caches agree on this name
		nocache_headers();
		header( 'Referrer-Policy: no-referrer' );
		$user = is_string( $_GET['chom_login'] ) ? chom_login_consume( $_GET['chom_login'] ) : null;
		if ( null === $user ) {
			wp_die( 'This login link has been used or has expired.', 'Login', array( 'response' => 403 ) );
		}
		wp_set_current_user( $user->ID );
		wp_set_auth_cookie( $user->ID, false, is_ssl() );
		do_action( 'wp_login', $user->user_login, $user );
		wp_safe_redirect( admin_url() );
		exit;
	},
	PHP_INT_MIN
);

/** Returns the user whom the token stands for and makes it worthless, or null. */
function chom_login_consume( string $token ): ?WP_User {
	global $wpdb;
	if ( ! preg_match( '/^[A-Za-z0-9_-]{43}$/D', $token ) ) {
		return null;
	}
	$hash   = hash( 'sha256', $token );
	$name   = '_chom_login_' . substr( $hash, 0, 16 );
	$stored = $wpdb->get_var( $wpdb->prepare( "SELECT option_value FROM {$wpdb->options} WHERE option_name = %s", $name ) );
	if ( ! is_string( $stored ) || ! preg_match( '/^(\d{1,12})\|(\d{1,18})\|([0-9a-f]{64})$/D', $stored, $row ) ) {
		return null;
	}
	if ( ! hash_equals( $row[3], $hash ) ) {
		return null; // another token with the same beginning: its link lives on
	}
	$deleted = $wpdb->query(
		$wpdb->prepare( "DELETE FROM {$wpdb->options} WHERE option_name = %s AND option_value = %s", $name, $stored )
	);
	if ( 1 !== $deleted || (int) $row[1] < time() ) {
		return null;
	}
	$user = get_userdata( (int) $row[2] );
	return $user instanceof WP_User && $user->has_cap( 'administrator' ) ? $user : null;
}
