//! What the machine is: interfaces, subnets, memory, disk
