<?php
// Reads how WordPress is, without the customer's plugins and themes.
$in = chom_input();

define( 'WP_INSTALLING', true );
define( 'WP_REPAIRING', true ); // an empty database is an answer, not an error page
chom_request( $in['url'] );

require $in['tree'] . '/wp-load.php';

chom_output( chom_measure( $in['locale'] ) );
