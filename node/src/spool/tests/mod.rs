mod crash;
mod damage;
mod kit;
mod life;
