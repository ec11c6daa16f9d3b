//! Every Delivery Optimization policy as a typed value, and what it permits
