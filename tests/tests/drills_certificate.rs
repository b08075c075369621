//! etcd's certificate turns wrong, and is put right.

use wgnet_tests::drill::{self, certificate::certificate};
use wgnet_tests::lab::Result;

#[test]
fn a_wrong_certificate_of_etcd_is_said_and_no_driver_needs_a_restart_when_it_is_right() -> Result<()>
{
    drill::hold(certificate)
}
